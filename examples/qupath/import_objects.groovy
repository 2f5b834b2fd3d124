// Imports objects into the image that is open in QuPath (0.4, 0.5, 0.6): Automate > Script editor > Run.
//
// Takes what `tiledseg predict --write geojson,labels` and `Segmentation.save` write: .geojson, .geojson.gz, and
// label images (.tif) of any size and type. Set FILE, or leave it empty to be asked. In a batch over a project,
// set it to the folder of results: then the file of the same name as the image is taken.
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.file.Files
import java.util.zip.GZIPInputStream
import loci.formats.FormatTools
import loci.formats.ImageReader
import qupath.lib.analysis.images.ContourTracing
import qupath.lib.analysis.images.SimpleImages
import qupath.lib.common.GeneralTools
import qupath.lib.io.PathIO
import qupath.lib.objects.PathObjects
import qupath.lib.objects.classes.PathClass
import qupath.lib.regions.RegionRequest
import qupath.lib.roi.RoiTools

def FILE = ''          // '/data/results', '/data/results/geojson/slide.geojson', '/data/labels.ome.tif'
def CLASS = 'cell'     // of the objects of a label image, which states no class
def REPLACE = true     // whether detections that are there already are removed
def SIDE = 4096        // px of a label image that are read at a time

def server = getCurrentServer()
def name = GeneralTools.stripExtension(server.getMetadata().getName())
def file = FILE.isEmpty() ? promptForFile(null as String[]) : new File(FILE)
if (file != null && file.isDirectory()) {
    def folders = ['geojson', 'labels'].collect { new File(file, it) } + [file]
    def suffixes = ['.geojson', '.geojson.gz', '.ome.tif', '.tif']
    file = [folders, suffixes].combinations { folder, suffix -> new File(folder, name + suffix) }.find { it.exists() }
}
if (file == null || !file.exists()) {
    println "No file of objects for ${name}"
    return
}

def readGeoJson = { File source ->
    def stream = Files.newInputStream(source.toPath())
    if (source.getName().endsWith('.gz'))
        stream = new GZIPInputStream(stream)
    return stream.withCloseable { PathIO.readObjectsFromGeoJSON(it) }
}

def pixelsOf = { ImageReader reader, int x, int y, int w, int h ->
    def buffer = ByteBuffer.wrap(reader.openBytes(0, x, y, w, h))
    buffer.order(reader.isLittleEndian() ? ByteOrder.LITTLE_ENDIAN : ByteOrder.BIG_ENDIAN)
    int size = FormatTools.getBytesPerPixel(reader.getPixelType())
    float[] pixels = new float[w * h]   // exact up to 16,777,216 objects
    for (int i = 0; i < pixels.length; i++)
        pixels[i] = size == 1 ? (buffer.get() & 0xff) : size == 2 ? (buffer.getShort() & 0xffff) : buffer.getInt()
    return SimpleImages.createFloatImage(pixels, w, h)
}

def readLabels = { File source ->
    def reader = new ImageReader()
    reader.setId(source.getAbsolutePath())
    int width = reader.getSizeX(), height = reader.getSizeY()
    double scale = server.getWidth() / (double) width   // a label image of a smaller level
    if (Math.abs(server.getHeight() / scale - height) > 1)
        throw new IllegalArgumentException("The label image has ${width} x ${height} px: no level of this image")
    def parts = [:].withDefault { [] }                  // an object may lie in several regions
    for (int y = 0; y < height; y += SIDE)
        for (int x = 0; x < width; x += SIDE) {
            int w = Math.min(SIDE, width - x), h = Math.min(SIDE, height - y)
            def region = RegionRequest.createInstance(server.getPath(), scale,
                (int) Math.round(x * scale), (int) Math.round(y * scale),
                (int) Math.round(w * scale), (int) Math.round(h * scale))
            ContourTracing.createROIs(pixelsOf(reader, x, y, w, h), region, 1, -1).each { label, roi ->
                parts[label.intValue()] << roi
            }
        }
    reader.close()
    def pathClass = PathClass.fromString(CLASS)
    return parts.collect { label, rois ->
        def roi = rois.size() == 1 ? rois[0] : RoiTools.union(rois)
        def object = PathObjects.createDetectionObject(roi, pathClass)
        object.setName(label.toString())                // the `label` of the table
        return object
    }
}

def isJson = file.getName().toLowerCase() =~ /\.(geo)?json(\.gz)?$/
def objects = isJson.find() ? readGeoJson(file) : readLabels(file)
if (REPLACE)
    clearDetections()
addObjects(objects)
fireHierarchyUpdate()
println "${objects.size()} objects from ${file.getName()}"

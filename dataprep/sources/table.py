"""The table of all sources: `build NAME` for each row."""

from dataprep.sources.boxes import BOXES
from dataprep.sources.coco import COCO
from dataprep.sources.openimages import OPEN_IMAGES
from dataprep.sources.source import Source
from dataprep.sources.voc import VOC
from dataprep.sources.yolo import YOLO

SOURCES: dict[str, Source] = {source.name: source for source in (COCO, OPEN_IMAGES, BOXES, YOLO, VOC)}

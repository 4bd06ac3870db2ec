"""The data set card: what a shard folder holds, where it comes from, and how it was chosen; Markdown."""

from pathlib import Path
from typing import Any

from dataprep.choose.filters import rules_of
from dataprep.plan.plan import BuildConfig
from dataprep.plan.plan_file import PLAN_FILE
from dataprep.shards.figures import bar_lines, histogram_lines, reject_table
from dataprep.sources.source import source_of
from intarsia.config import dump_config
from intarsia.words import counted


def data_card(content: dict[str, Any], header: dict[str, Any]) -> str:
    """The card of a finished folder.

    Args:
        content: content of the manifest.
        header: header of the plan.
    """
    return f"# {content['name']}\n\n{_summary(content)}\n{_origin(content, header)}\n{_contents(content)}"


def _summary(content: dict[str, Any]) -> str:
    kept, shards = content["kept"], content["shardlist"]
    size = sum(shard["filesize"] for shard in shards)
    return f"""{counted(kept["samples"], "training sample")} for exemplar-based image editing,
from {counted(kept["pictures"], "picture")} with {counted(kept["boxes"], "box", "boxes")},
of {counted(len(content["labels"]), "class", "classes")},
in {counted(len(shards), "shard")} of {size / 1e6:,.1f} MB.

A sample is a picture, an edit mask (255 = repaint), an exemplar (224 x 224, augmented) and a JSON record of
every choice that made it. The tars are plain webdataset shards; `manifest.json` lists them:

    import json, webdataset
    shards = [shard["url"] for shard in json.load(open("manifest.json"))["shardlist"]]
    for sample in webdataset.WebDataset(shards, shardshuffle=False).decode("rgb8"):
        sample["image.jpg"], sample["edit_mask.png"], sample["exemplar.jpg"], sample["json"]
"""


def _origin(content: dict[str, Any], header: dict[str, Any]) -> str:
    config = content["config"]
    inputs = "\n".join(f"- {role}: `{Path(item['path']).name}`" for role, item in header["inputs"].items())
    shown = config | ({"recipe": config["recipe"]["name"]} if "recipe" in config else {})
    options = "\n".join(f"| {name} | {_cell(value)} |" for name, value in shown.items())
    rules = "\n".join(f"- {line}" for line in rules_in_words(BuildConfig(**config)))
    return f"""## Made from

{inputs}

Licences: {source_of(config["source"]).licence}.

    {content["command"] or "(through the library)"}

| option | value |
|---|---|
{options}

## How boxes were chosen

{rules}
{_recipe(BuildConfig(**config))}"""


def _recipe(config: BuildConfig) -> str:
    """The recipe in full, unless it is the default."""
    recipe = config.recipe
    if recipe is None:
        return ""
    note = f"{recipe.note}\n\n" if recipe.note else ""
    bound = ", ".join(recipe.processor_bound)
    processors = (
        f"Another kind of processor may round differently in {bound}: the same command there gives the same "
        "samples, but perhaps not the same bytes.\n\n"
    )
    return f"""
## How samples were drawn: {recipe.name}

{note}{processors if bound else ""}```yaml
{dump_config(recipe)}```
"""


def _contents(content: dict[str, Any]) -> str:
    rejects = "\n".join(reject_table(content)) or "nothing"
    changed = "\n".join(reject_table(content, "changed"))
    if changed:
        rejects += f"\n```\n\nKept, but not as annotated:\n\n```\n{changed}"
    return f"""## Nothing vanished

In: {content["in"]["pictures"]:,} pictures with {content["in"]["boxes"]:,} boxes. Rejected (each one is a line
of `rejects.jsonl`; a rejected picture takes its remaining boxes with it, under its own reason):

```
{rejects}
```

## What is in it

```
{chr(10).join(histogram_lines(content["histograms"]))}

samples by class
{chr(10).join(bar_lines(content["labels"]))}
```

Fingerprint `{content["fingerprint"]}`, plan in `{PLAN_FILE}`, format version {content["format_version"]}.
"""


def _cell(value: Any) -> str:
    if value is None or value == []:
        return "–"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def rules_in_words(config: BuildConfig) -> list[str]:
    """One line for each rule that was applied."""
    rules = rules_of(config)
    lines = [f"area of {rules.smallest_area:g} to {rules.largest_area:g} of the picture's"]
    if rules.smallest_side > 1:
        lines.append(f"sides of {rules.smallest_side} px at least")
    if config.max_aspect is not None:
        lines.append(f"sides of at most {rules.largest_aspect:g} : 1")
    lines.append("not " + ", ".join(flag.removeprefix("is_") for flag in rules.dropped_flags))
    if config.only_classes:
        lines.append(f"only the classes {', '.join(config.only_classes)}")
    if config.not_classes:
        lines.append(f"none of the classes {', '.join(config.not_classes)}")
    if config.max_iou is not None:
        lines.append(f"no box that a larger one overlaps by more than {rules.largest_iou:g}")
    if config.per_class_max is not None:
        lines.append(f"at most {rules.per_class_max:,} boxes of a class")
    if config.class_temperature is not None:
        lines.append(f"classes thinned out at temperature {rules.class_temperature:g}")
    if config.min_sharpness is not None:
        lines.append(f"sharpness of {rules.least_sharpness:g} at least")
    if config.brightness is not None:
        lines.append(f"mean grey level of {rules.darkest:g} to {rules.brightest:g}")
    return lines

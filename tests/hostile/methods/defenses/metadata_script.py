"""Metadata that would run in a browser, or colour a terminal."""

from defenses.base import Defense, Knowledge, Stage, register

SCRIPT = "<script>document.title='taken over'</script><img src=x onerror=\"document.title='taken over'\">"


@register(
    title=SCRIPT[: SCRIPT.index("<img")],
    description=f"Looks like text and is more than that. {SCRIPT} [bold red]red[/] {{{{ 7 * 7 }}}}",
    paper=f"Nobody 2020 {SCRIPT}",
    resources=f"none {SCRIPT}",
    stages=(Stage.AGGREGATE,),
    knowledge=Knowledge.NONE,
)
class MetadataScript(Defense):
    """Behaves like the default in every other respect."""

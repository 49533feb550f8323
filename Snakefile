# The front door. `snakemake --cores all` runs scale `quick`; `--config scale=standard` another one.
from snakemake.utils import min_version

min_version("9.27")


include: "workflows/common.smk"
include: "workflows/jobs.smk"
include: "workflows/report.smk"
include: "workflows/hub.smk"


rule all:
    default_target: True
    input:
        REPORT,
        PUBLISHED,
        # Named here too, since Snakemake does not make a missing file again while what was made from it is there.
        RECEIPTS,
    localrule: True

# Where there is a network, before a run on nodes without one (docs/paper-scale.md):
#     snakemake --cores 1 download --config scale=paper
# Nobody's input: most scales need no hub, and where the nodes have a network the jobs fetch for themselves.


localrules:
    download,


rule download:
    log:
        f"{FOLDER}/logs/download.log",
    conda:
        "../envs/tycho.yaml"
    params:
        scale=SETTINGS.scale,
    shell:
        "python -m tycho download --scale {params.scale} 2>&1 | tee {log:q}"

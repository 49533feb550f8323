# Where there is a network, before a run on nodes without one (docs/paper-scale.md):
#     snakemake --cores 1 download --config scale=paper
# Nobody's input: most scales need no hub, and where the nodes have a network the jobs fetch for themselves.


localrules:
    download,


rule download:
    conda:
        "../envs/tycho.yaml"
    shell:
        "python -m tycho download --scale {SETTINGS.scale}"

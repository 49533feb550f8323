# From the jobs' records to one report. These read tables only, and take seconds.


localrules:
    collect,
    judge,
    report,
    publish,


rule collect:
    input:
        receipts=RECEIPTS,
        code=sources("reports/collect.py"),
    output:
        multiext(
            f"{FOLDER}/",
            samples="samples.parquet",
            metrics="metrics.parquet",
            costs="costs.parquet",
        ),
        statuses=f"{FOLDER}/statuses.parquet",
    log:
        f"{FOLDER}/logs/collect.log",
    conda:
        "../envs/tycho.yaml"
    params:
        # A room that broke since has no jobs, so nothing else would tell that the report is out of date.
        broken=sorted(PLAN.broken.values()),
    shell:
        "python -m reports collect --log {log:q}"


rule judge:
    input:
        rules.collect.output,
        code=sources(
            "reports/claims.py",
            "reports/judge.py",
            "reports/statistics.py",
            "reports/estimands.py",
            "methods/*/claims.yaml",
            "methods/*/estimands.py",
        ),
    output:
        f"{FOLDER}/claims.parquet",
    log:
        f"{FOLDER}/logs/judge.log",
    conda:
        "../envs/tycho.yaml"
    shell:
        "python -m reports judge --log {log:q}"


rule report:
    input:
        rules.judge.output,
        code=sources(
            "reports/*.py",
            "reports/templates/*",
            "methods/*/README.md",
            "methods/*/method.py",
        ),
    output:
        REPORT,
    log:
        f"{FOLDER}/logs/report.log",
    conda:
        "../envs/tycho.yaml"
    shell:
        "python -m reports compile --log {log:q}"


rule publish:
    # A head start for what `onsuccess` ends: publishing takes a while, and the rules above leave a core idle. Not the report,
    # which is being made.
    input:
        RECEIPTS,
    output:
        touch(PUBLISHED),
    log:
        f"{FOLDER}/logs/publish.log",
    conda:
        "../envs/tycho.yaml"
    params:
        results=lambda wildcards: str(SETTINGS.results),
        scale=SETTINGS.scale,
    shell:
        "python -m tycho sync --no-report --results {params.results:q} --scale {params.scale} 2>&1 | tee {log:q} || true"


onsuccess:
    shell(
        "python -m tycho sync --results {SETTINGS.results:q} --scale {SETTINGS.scale} || true"
    )


onerror:
    # What did run is reported all the same; the claims of what did not say why.
    shell(
        "if [ -d {FOLDER:q}/jobs ]; then python -m reports all || true;"
        " python -m tycho sync --results {SETTINGS.results:q} --scale {SETTINGS.scale} || true; fi"
    )

# One rule a method. An output is a receipt whose name carries the digest of code, config and inputs (tycho/jobs.py):
# what a job makes is not declared, so that a failed or killed job loses nothing and resumes.

for _method in PLAN.methods:

    rule:
        name:
            _method
        input:
            upstream_receipts(_method),
        output:
            f"{FOLDER}/jobs/{_method}/{{arm}}/{{task}}/receipts/{{seeds}}.{{digest}}.json",
        log:
            f"{FOLDER}/logs/{_method}/{{arm}}-{{task}}-{{seeds}}-{{digest}}.log",
        wildcard_constraints:
            seeds=r"[0-9]+(to[0-9]+)?(-[0-9]+(to[0-9]+)?)*",
            digest=r"[0-9a-f]{16}",
        priority: longest_first(_method)
        conda:
            "../envs/tycho.yaml"
        threads: SETTINGS.threads
        resources:
            mem_mb=growing(PLAN.plans[_method].memory_mb),
            runtime=growing(PLAN.plans[_method].minutes),
            gpu=PLAN.plans[_method].gpus,
        params:
            method=_method,
        shell:
            "python -m tycho job {params.method} {wildcards.arm} {wildcards.task} --seeds {wildcards.seeds}"
            " --digest {wildcards.digest} --log {log:q}"

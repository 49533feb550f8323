"""The symbolic model: a small decoder on traces of noisy facts, which learns how sure each fact is."""

from __future__ import annotations

from methods.deepconf.pools import shape
from methods.deepconf.tasks import HARD
from tycho.adapter import Run


def train(run: Run) -> None:
    from tycho.lm import small
    from tycho.lm.examples import next_token_loss
    from tycho.lm.flops import training_flops
    from tycho.lm.training import Recipe, Trainer
    from tycho.tasks import arithmetic

    config = run.config
    size = shape(config.modulus)
    words = arithmetic.vocabulary(size)
    noise = arithmetic.Noise(hard=HARD[run.key.task], wrong=config.wrong)
    stream = arithmetic.stream(size, words, "rewriting", run.seed("data"), config.batch, noise=noise, order="random")
    model = small.build(words, layers=config.layers, width=config.width, heads=4, context=64, seed=run.seed("init"))
    model.to(run.device)

    def loss(model, batch):
        out = model(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=batch.positions)
        return next_token_loss(out.logits, batch.labels)

    def batches(step: int):
        return type(b := stream(step).sequences())(*(part.to(run.device) for part in b))

    warmup = min(50, config.steps // 4)
    recipe = Recipe(config.steps, config.learning_rate, warmup, betas=(0.9, config.beta2))
    trainer = Trainer(model, batches, loss, recipe, seed=run.seed("order"))
    restored = run.restore()
    if restored:
        trainer.restore(restored[1])
    for point in run.progress(trainer, "training", total=config.steps, start=trainer.step):
        if point.step % 10 == 0 or point.step == config.steps:
            run.log(point.step, loss=point.loss)
        run.checkpoint(point.step, trainer.state)
    model.eval()
    run.save_model(lambda folder: small.save(model.cpu(), words.tokenizer(), folder))
    width = batches(0).ids.shape[1]
    run.count(flops=config.steps * config.batch * float(training_flops(model.config, width)))

"""Rows of `benchmarks.accelerator`: decoding, labelling, search, and their peer."""

import dataclasses
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness, labelling, roofline
from benchmarks.accelerator_shapes import (
    Row,
    Shapes,
    random_policy,
    random_prm,
    row_of,
)
from benchmarks.roofline import Ceilings
from pav_jax.core.ledger import Ledger
from pav_jax.gemma import cached_attention, decode_loop, forward
from pav_jax.gemma.architecture import TransformerConfig
from pav_jax.gemma.sampling import SamplingConfig
from pav_jax.rl import update as rl_update
from pav_jax.search.beam import beam_search
from pav_jax.search.beam_step import BeamConfig
from pav_jax.search.verifier_scorer import VerifierScorer

_GIB = 2**30


def decode(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """The engine's loop alone, until all branches have ended."""
    c = shapes.architecture
    params = random_policy(shapes)
    for branches in shapes.branches:
        sampling = SamplingConfig(
            max_tokens=shapes.response, end_ids=(), trunks=branches // 16, rows=16
        )
        static = dict(architecture=c, sampling=sampling)
        sizes_ = (shapes.prompt, shapes.response, 16)
        new = _load(shapes, sampling)
        for_steps = cached_attention.for_extend(params)
        none = np.int32(0)

        def fresh(static=static, sizes_=sizes_, new=new):
            grid = decode_loop.empty_grid(*sizes_, dtype=shapes.dtype, **static)
            return jax.block_until_ready(decode_loop.load(params, grid, new, **static))

        start = time.perf_counter()
        program = decode_loop.run_segment.lower(
            for_steps, fresh(), none, **static
        ).compile()
        compiled = time.perf_counter() - start
        taken = []
        for _ in range(shapes.repeats):
            grid = fresh()
            start = time.perf_counter()
            grid, *counts = jax.block_until_ready(program(for_steps, grid, none))
            taken.append(time.perf_counter() - start)
        steps, seconds = shapes.response - 1, float(np.median(taken))
        if int(counts[1]) != steps * branches:
            raise AssertionError(f"{int(counts[1])} tokens were decoded")
        item = params["embed"].dtype.itemsize
        context = shapes.prompt + shapes.response / 2
        held = branches // 16 * shapes.prompt + branches * shapes.response / 2
        cost = roofline.weights(c, item, table=True) * steps
        cost += roofline.cache(c, item, held) * steps
        cost += roofline.tokens(c, branches * steps, context, table=True)
        gap = _gap(params, grid, new, shapes, sampling)
        yield row_of(
            f"decode, {branches} branches",
            branches * steps,
            "tokens",
            seconds,
            cost,
            ceilings,
            compile=compiled,
            note=f"{1e3 * seconds / steps:.2f} ms a step;"
            f" {_memory(program, c, sampling, shapes)};"
            f" log-probabilities within {gap:.3f} of an uncached forward",
        )


def _load(shapes: Shapes, sampling: SamplingConfig) -> decode_loop.Load:
    """All trunks of the grid at once."""
    trunks = sampling.trunks
    tokens = jax.random.randint(
        jax.random.key(1), (trunks, shapes.prompt), 3, shapes.architecture.vocab_size
    )
    keys = jax.random.bits(jax.random.key(2), (trunks, 16, 2))
    full = (trunks, 16)
    return decode_loop.Load(
        slots=np.arange(trunks, dtype=np.int32),
        tokens=np.asarray(tokens, np.int32),
        prefix=np.full(full, shapes.prompt, np.int32),
        limit=np.full(full, shapes.response, np.int32),
        keys=np.asarray(keys, np.uint32),
        count=np.full(trunks, 16, np.int32),
    )


def _gap(params, grid, new, shapes: Shapes, sampling) -> float:
    """The largest difference of a log-probability from an uncached forward's."""
    tokens, log_probs, _ = decode_loop.outputs(
        grid, np.zeros(1, np.int32), sampling=sampling
    )
    tokens, log_probs = tokens[0, :4], log_probs[0, :4]
    prompt = jnp.broadcast_to(new.tokens[:1], (4, shapes.prompt))
    rows = jnp.concatenate([prompt, tokens], axis=1)
    whole = jax.jit(rl_update.response_log_probs, static_argnames="architecture")(
        params, {"tokens": rows}, architecture=shapes.architecture
    )
    return float(jnp.max(jnp.abs(whole[:, shapes.prompt :] - log_probs)))


def _memory(program, c: TransformerConfig, sampling, shapes: Shapes) -> str:
    """What the compiler takes, beside the formula of `decode_loop`."""
    found = program.memory_analysis()
    total = found.argument_size_in_bytes + found.temp_size_in_bytes
    total += found.output_size_in_bytes - found.alias_size_in_bytes
    item = jnp.dtype(shapes.dtype).itemsize
    g, m, t, n = sampling.trunks, sampling.rows, shapes.prompt, shapes.response
    formula = c.num_params * item
    formula += 2 * c.num_layers * c.num_kv_heads * c.head_dim * item * g * (t + m * n)
    formula += 8 * g * 16 * n
    formula += 4 * g * m * max(2 * c.vocab_size, 3 * c.num_heads * (t + n))
    return f"{total / _GIB:.2f} GiB, by the formula {formula / _GIB:.2f}"


def label(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """Labels as the stage makes them: the large shape, and the CPU benchmark's."""
    rng = np.random.default_rng(0)
    steps = labelling.STEPS
    sampling = SamplingConfig(
        max_tokens=shapes.response, end_ids=(), trunks=shapes.seeds, rows=shapes.rows
    )
    size = (shapes.seeds, shapes.prompt, shapes.response // steps)
    cases = [("labelling", shapes.architecture, shapes.dtype, sampling, size)]
    if jax.devices()[0].platform != "cpu":  # where `make benchmarks` measures it
        size = (labelling.SEEDS, labelling.PROMPT, labelling.STEP)
        cases.append(
            (
                "labelling, the CPU benchmark's shape",
                labelling.ARCHITECTURE,
                jnp.float32,
                labelling.SAMPLING,
                size,
            )
        )
    for name, c, dtype, sampling, (seeds, prompt, step) in cases:
        params = jax.jit(forward.init_params, static_argnums=(1, 2))(
            jax.random.key(0), c, dtype
        )
        total = prompt + steps * step
        tokens = rng.integers(3, c.vocab_size, (seeds, total)).astype(np.int32)
        requests = labelling.requests(tokens, prompt=prompt, step=step)
        ledgers: list[Ledger] = []

        def run(params=params, requests=requests, c=c, sampling=sampling, to=ledgers):
            to.append(
                harness.sample(params, requests, architecture=c, sampling=sampling)
            )

        start = time.perf_counter()
        run()
        first = time.perf_counter() - start
        seconds = roofline.seconds(run, repeats=1 + shapes.repeats // 3)
        paid = ledgers[-1]
        item = params["embed"].dtype.itemsize
        passes = paid.decoded / (sampling.trunks * sampling.rows)
        held = seeds * total + sampling.trunks * sampling.rows * steps * step / 3
        cost = roofline.weights(c, item, table=True) * passes
        cost += roofline.cache(c, item, held) * passes
        cost += roofline.tokens(c, paid.decoded, total * 0.8, table=True)
        cost += roofline.tokens(c, paid.prefilled, total / 2, table=False)
        yield row_of(
            name,
            paid.decoded,
            "tokens",
            seconds,
            cost,
            ceilings,
            compile=first - seconds,
            note=f"occupancy {paid.decoded / paid.slots:.2f}",
        )


@dataclasses.dataclass
class _Counted:
    """A scorer that counts the longest step of each pass over the rows."""

    scorer: VerifierScorer
    longest: list[int] = dataclasses.field(default_factory=list)

    def __getattr__(self, name):
        return getattr(self.scorer, name)

    def score(self, state, beams):
        self.longest.append(int(jnp.max(beams.length - beams.start)))
        return self.scorer.score(state, beams)


def search(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """A beam search, the policy and the verifier side by side."""
    c, problems, beams, candidates = shapes.architecture, shapes.seeds, 4, 3
    params, prm = random_policy(shapes), random_prm(shapes)
    rng = np.random.default_rng(0)
    shape = (problems, shapes.prompt)
    prompts = rng.integers(3, c.vocab_size, shape).tolist()
    beam = BeamConfig(
        beams=beams,
        candidates=candidates,
        max_tokens=shapes.response,
        max_steps=4,
        end_ids=(),
        step_end_ids=tuple(range(0, c.vocab_size, 16)),
        rows=problems * beams * candidates,
    )
    scorer = _Counted(VerifierScorer(prm, c, beam.max_tokens))

    def run() -> Ledger:
        paid = Ledger()
        scorer.longest.clear()
        for result in beam_search(
            params,
            scorer,
            prompts,
            range(problems),
            alpha=0.5,
            prover_k=4,
            seed=0,
            architecture=c,
            beam=beam,
        ):
            paid += result.ledger
        return paid

    start = time.perf_counter()
    paid = run()
    first = time.perf_counter() - start
    seconds = roofline.seconds(run, repeats=1)
    item = params["embed"].dtype.itemsize
    rows = problems * beams * candidates
    held = problems * shapes.prompt + rows * shapes.response / 2
    decoding = roofline.weights(c, item, table=True) + roofline.cache(c, item, held)
    reading = roofline.weights(c, item, table=False) + roofline.cache(c, item, held)
    cost = decoding * sum(scorer.longest)
    cost += reading * sum(-(-n // 8) for n in scorer.longest)
    context = shapes.prompt + shapes.response / 2
    cost += roofline.tokens(c, paid.decoded, context, table=True)
    cost += roofline.tokens(c, paid.scored, context, table=False)
    cost += roofline.tokens(c, paid.prefilled, shapes.prompt / 2, table=False)
    yield row_of(
        f"search, {problems} problems, {beams} beams, {len(scorer.longest)} steps",
        paid.decoded,
        "tokens",
        seconds,
        cost,
        ceilings,
        compile=first - seconds,
        note=f"the longest steps: {scorer.longest}",
    )


def transformers(shapes: Shapes, ceilings: Ceilings) -> Iterator[Row]:
    """The peer's `generate` on the same card: the decode row's first shape."""
    import torch
    import transformers

    if not torch.cuda.is_available():
        raise ImportError("torch sees no card")
    c, branches = shapes.architecture, shapes.branches[0]
    config = transformers.Gemma2Config(
        vocab_size=c.vocab_size,
        hidden_size=c.embed_dim,
        intermediate_size=c.mlp_dim,
        num_hidden_layers=c.num_layers,
        num_attention_heads=c.num_heads,
        num_key_value_heads=c.num_kv_heads,
        head_dim=c.head_dim,
        eos_token_id=None,
        attn_implementation="eager",
    )
    with torch.device("cuda"):
        network = transformers.Gemma2ForCausalLM(config).to(torch.bfloat16).eval()
    prompt = torch.randint(3, c.vocab_size, (branches, shapes.prompt), device="cuda")

    def run():
        with torch.inference_mode():
            out = network.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=shapes.response,
                min_new_tokens=shapes.response,
                do_sample=True,
                top_k=0,
                top_p=1.0,
            )
        torch.cuda.synchronize()
        return out.shape[0]

    seconds = roofline.seconds(run, repeats=1)
    yield Row(
        f"transformers {transformers.__version__} generate, {branches} rows",
        branches * shapes.response / seconds,
        "tokens",
        seconds,
        note="its own random weights, bfloat16; each row reads its prompt",
    )

"""A server that draws for the page, for ensembles too big to send: the same page, the real PyTorch ensemble behind it.

It listens on this machine alone, draws for one visitor at a time, and takes nothing from a request but seeds and which
components take part, both bounded. Steps are streamed as server-sent events.
"""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import SettingsError, option
from ..runs.conditioning import given_of
from .serving import HOST

if TYPE_CHECKING:
    from fastapi import FastAPI

    from ..diffusion.conditions import Condition
    from ..diffusion.ensemble import Ensemble
    from ..diffusion.given import Given
    from ..diffusion.sampling_settings import Sampling
    from ..runs.run import Run

MOST_ROWS = 16  # trajectories in one request
MOST_WAITING = 8  # requests that wait for their turn; more are told to come again
LARGEST_SEED = 2**53 - 1  # what a browser holds exactly


class Steps:
    """Trajectories of an ensemble, step by step, as a page shows them."""

    def __init__(
        self, run: Run, ensemble: Ensemble, sampling: Sampling, conditions: Mapping[int, Condition] | None = None
    ) -> None:
        """`conditions`: by seed, of the page's samples; a seed that is not among them has the first one's."""
        self.run, self.ensemble, self.sampling = run, ensemble, sampling
        self.conditions = dict(conditions or {})

    def draw(self, seeds: list[int], alive: np.ndarray) -> Iterator[dict[str, Any]]:
        """After each step, from the noise on: the pictures and the guesses at the finished ones.

        Args:
            seeds: one per row.
            alive: bool (rows, components).

        Yields:
            `step`, `of`, and `levels` and `guess`: uint8 (rows, C, H, W) in base64.
        """
        import torch

        from ..data.images import delivered
        from ..data.units import to_images
        from ..diffusion.sampling import Trajectories, make_sampler

        schedule, steps = self.run.recipe.schedule, self.sampling.steps
        noise, abar = Trajectories(seeds, self.run.noise_shape), schedule.alphas_cumprod()
        timesteps, step_from = make_sampler(self.sampling, schedule)
        ablated = self.ensemble.ablate(alive).under(self._given(seeds))

        def told(step: int, x: torch.Tensor, guess: torch.Tensor) -> dict[str, Any]:
            threshold = self.sampling.threshold if step == steps else None
            if self.run.codec is not None:
                x, guess = self.run.codec.decode(x), self.run.codec.decode(guess)
            levels, guesses = (
                base64.b64encode(np.moveaxis(delivered(to_images(part), threshold), -1, 1).tobytes()).decode()
                for part in (x, guess)
            )
            return {"step": step, "of": steps, "levels": levels, "guess": guesses}

        x = noise[0]
        yield told(0, x, x)
        for number, t in enumerate(timesteps, start=1):
            with torch.inference_mode():
                predicted = ablated(x, t)
                signal, rest = float(abar[t].sqrt()), float((1 - abar[t]).sqrt())
                guess = (x - rest * predicted) / signal
                guess = guess.clamp(-1, 1) if self.sampling.clip else guess
                x = step_from(predicted, t, x, noise[number] if self.sampling.sampler == "ddpm" else x)
            if done := self.sampling.finished(number):
                yield told(done, x, guess)

    def _given(self, seeds: list[int]) -> Given | None:
        conditions = None
        if self.conditions:
            first = next(iter(self.conditions.values()))
            conditions = [self.conditions.get(seed, first) for seed in seeds]
        return given_of(self.run, conditions, len(seeds), self.sampling.guidance)


def application(
    run: Run,
    site: Path,
    sampling: Sampling,
    *,
    ensemble: Ensemble | None = None,
    conditions: Mapping[int, Condition] | None = None,
) -> FastAPI:
    """The site's files and `POST /api/draw`; `conditions` as `Steps` takes them.

    Raises `SettingsError` when the packages that serve are not installed.
    """
    try:
        from fastapi import FastAPI, HTTPException
        from fastapi.responses import StreamingResponse
        from fastapi.staticfiles import StaticFiles
        from pydantic import BaseModel, ConfigDict, Field
    except ImportError as error:
        raise SettingsError(
            f"serving an ensemble needs the packages fastapi and uvicorn ({error}); pip install 'ablatable[serve]'"
        ) from None
    components = run.code.components

    class Row(BaseModel):
        model_config = ConfigDict(extra="forbid", strict=True)
        seed: int = Field(ge=0, le=LARGEST_SEED)
        alive: list[bool] = Field(min_length=components, max_length=components)

    class Request(BaseModel):
        model_config = ConfigDict(extra="forbid")
        rows: list[Row] = Field(min_length=1, max_length=MOST_ROWS)

    drawn = Steps(run, ensemble or run.ensemble(), sampling, conditions)
    turn = Turn()
    app = FastAPI(title="ablatable explorer", docs_url=None, redoc_url=None, openapi_url=None)

    async def draw(request: Request) -> StreamingResponse:
        alive = np.array([row.alive for row in request.rows], bool)
        if not alive.any(axis=1).all():
            raise HTTPException(422, "a row has no surviving component, and nothing predicts its noise")
        if turn.waiting >= MOST_WAITING:
            raise HTTPException(503, "too many requests are waiting; try again in a moment")
        steps = drawn.draw([row.seed for row in request.rows], alive)
        return StreamingResponse(
            turn.take(steps), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    # annotations are text here, and FastAPI would look the local class up among this module's names
    draw.__annotations__ = {"request": Request, "return": StreamingResponse}
    app.post("/api/draw", response_model=None)(draw)
    app.mount("/", StaticFiles(directory=site, html=True), name="site")
    return app


class Turn:
    """One queue: whoever asks is served after those who asked before, a step of work at a time in a thread."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0

    async def take(self, steps: Iterator[dict[str, Any]]) -> AsyncIterator[str]:
        """The events of one request. A visitor who leaves frees the place at the next step."""
        self.waiting += 1
        try:
            async with self.lock:
                while (value := await asyncio.to_thread(next, steps, None)) is not None:
                    yield f"data: {json.dumps(value)}\n\n"
        except Exception:
            yield f"data: {json.dumps({'error': 'the server could not draw this'})}\n\n"
            raise
        finally:
            self.waiting -= 1


class Background:
    """A server in a thread of this process, for tests and notebooks: `with Background(app) as address`."""

    def __init__(self, app: FastAPI, port: int = 0) -> None:
        import uvicorn

        self.server = uvicorn.Server(uvicorn.Config(app, host=HOST, port=port, log_level="warning"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            self.thread.join(0.02)
        if not self.server.started:
            raise SettingsError(f"the server could not start; choose another {option('port')}")
        port = self.server.servers[0].sockets[0].getsockname()[1]
        return f"http://{HOST}:{port}/"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()


def serve_ensemble(app: FastAPI, site: Path, port: int, *, open_browser: bool, announce: Any) -> None:
    """Serve a site by its `application`, which draws for it, until Ctrl-C."""
    import webbrowser

    with Background(app, port) as address:
        announce(f"serving {site} at {address}, drawing on this machine (Ctrl-C stops)")
        if open_browser:
            webbrowser.open(address)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            announce("stopped")

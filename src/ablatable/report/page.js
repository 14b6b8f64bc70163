"use strict";
// Turns each sample's sprite into a contact sheet of tiles that can be sorted, walked through and looked into.
// A tile is a button with a canvas; they are made when a card comes near the screen, then for the other cards while the
// page is idle, and at once for all of them before printing.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const [height, width] = data.shape;
  const training = document.getElementById("training");
  const byName = new Intl.Collator("en", { numeric: true });

  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  function canvas(label) {
    const made = element("canvas", { width, height, className: "pixels" });
    if (label) {
      made.setAttribute("role", "img");
      made.setAttribute("aria-label", label);
    } else {
      made.setAttribute("aria-hidden", "true");
    }
    return made;
  }

  // Copies picture number `index` out of a sprite of `columns` columns.
  function cut(target, sprite, columns, index) {
    const pen = target.getContext("2d", { willReadFrequently: true });
    pen.clearRect(0, 0, width, height);
    const x = (index % columns) * width, y = Math.floor(index / columns) * height;
    pen.drawImage(sprite, x, y, width, height, 0, 0, width, height);
    return pen.getImageData(0, 0, width, height).data;
  }

  // As `difference` in pictures.py: a hue for the sign, opacity for the root mean square over the channels.
  function drawDifference(target, before, after) {
    const pen = target.getContext("2d");
    const change = pen.createImageData(width, height);
    for (let k = 0; k < before.length; k += 4) {
      let sum = 0, squares = 0;
      for (let c = k; c < k + 3; c++) {
        const step = after[c] - before[c];
        sum += step;
        squares += step * step;
      }
      change.data.set(sum >= 0 ? data.colours.brighter : data.colours.darker, k);
      change.data[k + 3] = Math.round(Math.sqrt(squares / 3));
    }
    pen.putImageData(change, 0, 0);
  }

  function describe(tile) {
    const distance = "distance " + tile.distance.toFixed(1);
    return tile.unit ? tile.name + ", " + distance : "spare ablation " + tile.spare + ", " + distance;
  }

  function tilesOf(sample) {
    const units = sample.units.map(([row, distance, asFar, image], k) => ({
      unit: true, name: data.ids[row], order: data.order[row], images: data.images[row], sharing: data.sharing[row],
      distance, asFar, image, rank: k, place: 1 + k,
    }));
    const spares = sample.spares.map(([spare, distance], k) => ({
      unit: false, spare, distance, rank: k, place: 1 + units.length + k,
    }));
    return [units, spares];
  }

  const orders = {
    distance: (a, b) => a.rank - b.rank,
    unit: (a, b) => (a.unit ? byName.compare(a.name, b.name) || a.order - b.order : a.spare - b.spare),
  };

  class Details {
    constructor(sprite, columns) {
      this.sprite = sprite;
      this.columns = columns;
      this.title = element("p", { className: "details-title" });
      this.lines = element("p", { className: "details-lines" });
      this.pictures = {
        training: canvas("training image"), factual: canvas("the sample"),
        without: canvas("counterfactual sample"), change: canvas("what changes"),
      };
      this.pictures.change.classList.add("difference");
      const figure = (name, caption) =>
        element("figure", { className: name }, this.pictures[name], element("figcaption", { textContent: caption }));
      this.own = figure("training", "training image");
      this.element = element("div", { className: "details" },
        element("div", { className: "details-pictures" },
          this.own, figure("factual", "the sample"), figure("without", "without"), figure("change", "change")),
        element("div", { className: "details-text" }, this.title, this.lines));
      this.caption = this.pictures.without.nextSibling;
      this.factual = cut(this.pictures.factual, sprite, columns, 0);
    }

    show(tile) {
      this.title.replaceChildren(
        element("bdi", { textContent: tile.unit ? tile.name : "Spare ablation " + tile.spare }));
      const lines = ["distance " + tile.distance.toFixed(1)];
      if (tile.unit) {
        if (data.spares) lines.push(tile.asFar + " of " + data.spares + " spares as far");
        if (tile.images > 1) lines.push("nearest of its " + tile.images + " images");
        if (tile.sharing > 1) lines.push("codeword shared by " + tile.sharing + " units");
        cut(this.pictures.training, training, data.columns, tile.image);
      } else {
        lines.push("as many components gone, but no unit");
      }
      this.lines.replaceChildren(...lines.map((text) => element("span", { textContent: text })));
      this.own.classList.toggle("absent", !tile.unit);
      this.caption.textContent = tile.unit ? "without" : "under it";
      const after = cut(this.pictures.without, this.sprite, this.columns, tile.place);
      drawDifference(this.pictures.change, this.factual, after);
    }
  }

  // One group of tiles: a single stop for the Tab key, inside it the arrow keys, Home and End move.
  class Grid {
    constructor(label, tiles, sprite, columns, onLook, onChoose) {
      this.buttons = tiles.map((tile) => {
        const picture = canvas();
        cut(picture, sprite, columns, tile.place);
        const text = element("span", { textContent: tile.distance.toFixed(1) });
        text.setAttribute("aria-hidden", "true");
        const button = element("button", { type: "button", className: "tile", tabIndex: -1 }, picture, text);
        button.setAttribute("aria-label", describe(tile));
        button.title = describe(tile);
        button.dataset.distance = tile.distance;
        if (tile.unit) button.dataset.unit = tile.name;
        button.tile = tile;
        button.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && onLook(button));
        button.addEventListener("focus", () => { this.enter(button); onChoose(button); });
        button.addEventListener("click", () => { this.enter(button); onChoose(button); });
        return button;
      });
      this.element = element("div", { className: "tiles" });
      this.element.setAttribute("role", "group");
      this.element.setAttribute("aria-label", label);
      this.element.addEventListener("pointerleave", () => onLook(null));
      this.element.addEventListener("keydown", (event) => this.move(event));
      this.sort("distance");
      if (this.buttons.length) this.enter(this.buttons[0]);
    }

    sort(by) {
      this.buttons.sort((a, b) => orders[by](a.tile, b.tile));
      this.element.replaceChildren(...this.buttons);
    }

    enter(button) {
      for (const other of this.buttons) other.tabIndex = other === button ? 0 : -1;
    }

    move(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      const at = this.buttons.indexOf(document.activeElement);
      if (at < 0) return;
      const top = this.buttons[0].offsetTop;
      const below = this.buttons.findIndex((button) => button.offsetTop > top);
      const row = below < 0 ? this.buttons.length : below;
      const last = this.buttons.length - 1;
      const targets = {
        ArrowLeft: at - 1, ArrowRight: at + 1, ArrowUp: at - row, ArrowDown: at + row, Home: 0, End: last,
      };
      if (!(event.key in targets)) return;
      event.preventDefault();
      const target = this.buttons[targets[event.key]];
      if (target) target.focus();
    }
  }

  const waiting = new Set(document.querySelectorAll("[data-landscape]"));

  // Waits for the pictures only if it must: before printing there is no time to wait.
  async function build(landscape) {
    if (!waiting.delete(landscape)) return;
    watcher.unobserve(landscape);
    const sample = [...document.querySelectorAll("[data-landscape]")].indexOf(landscape);
    const sprite = landscape.querySelector("img.sprite");
    const sheet = landscape.querySelector(".sheet");
    if (!(sprite.complete && training.complete)) await Promise.all([sprite.decode(), training.decode()]);
    const [units, spares] = tilesOf(data.samples[sample]);
    const columns = Math.ceil(Math.sqrt(1 + units.length + spares.length)); // as `sprite_columns`
    const details = new Details(sprite, columns);
    let chosen = null;
    const look = (button) => details.show((button || chosen).tile);
    const choose = (button) => {
      if (chosen) chosen.removeAttribute("aria-current");
      chosen = button;
      chosen.setAttribute("aria-current", "true");
      look(button);
    };
    const name = landscape.dataset.landscape;
    const grids = [new Grid("Sample " + name + " without each unit", units, sprite, columns, look, choose)];
    const groups = [element("div", { className: "group" }, grids[0].element)];
    if (spares.length) {
      grids.push(new Grid("Sample " + name + " under spare ablations", spares, sprite, columns, look, choose));
      groups.push(element("div", { className: "group spares" },
        element("h5", { textContent: "Under spare ablations: as many components gone, but no unit" }), grids[1].element));
    }
    choose(grids[0].buttons[0]);
    sheet.append(details.element, element("div", { className: "groups" }, ...groups));
    for (const input of landscape.querySelectorAll("input[type=radio]")) {
      input.addEventListener("change", () => { for (const grid of grids) grid.sort(input.value); });
      if (input.checked) for (const grid of grids) grid.sort(input.value); // a reload keeps the choice
    }
    sheet.hidden = false;
    landscape.classList.add("built");
  }

  document.documentElement.classList.add("scripted");
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (entry.isIntersecting) build(entry.target);
    }
  }, { rootMargin: "1500px 0px" });
  for (const landscape of waiting) watcher.observe(landscape);

  const idly = window.requestIdleCallback || ((task) => setTimeout(task, 200));
  async function fill() {
    const [next] = waiting;
    if (!next) return;
    await build(next);
    idly(fill);
  }
  addEventListener("load", () => idly(fill));
  addEventListener("beforeprint", () => { for (const landscape of [...waiting]) build(landscape); });
})();

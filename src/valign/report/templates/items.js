// the item table: measure, search, outcome, policy, order, pages. Numbers are the JSON's, with their place in it.
(async () => {
  const box = one("#items"), PAGE = 20, MINUS = "\u2212";
  if (!box) return;
  if (!window.DecompressionStream) {
    one("#item-count").textContent = "This browser is too old to show all items (it lacks DecompressionStream).";
    return;
  }
  let data = null, rows = [], shown = [], at = 0, outcome = "all", quarrels = null;
  const base = () => data.subjects.findIndex((s) => s.base);

  const number = (x, unit, signed) => {
    const a = Math.abs(x);
    const text = unit === "nats" || unit === "bits" ? `${a.toFixed(2)} ${unit}` : unit === "percent" ? `${a.toFixed(1)} %`
      : unit === "bare" ? a.toFixed(2) : unit !== "share" && unit !== "score" ? `${Number(a.toPrecision(4))} ${unit}`
      : a === 0 || a >= 0.0005 ? a.toFixed(3) : a.toPrecision(1);
    return (/[1-9]/.test(text) ? x < 0 ? MINUS : signed ? "+" : "" : "") + text;
  };
  const num = (x, unit, place, signed) => x === null
    ? make("data", { class: "num none", value: "", "data-at": place }, "unscored")
    : make("data", { class: "num", value: String(x), "data-at": place }, number(x, unit, signed));

  // rows of a measure, made when it is first looked at
  const made = new Map();
  const rowsOf = (m) => {
    if (!made.has(m)) made.set(m, m.rows ? ofResponses(m) : ofResult(m));
    return made.get(m);
  };
  const ofResponses = (m) => m.rows.map((r, i) => ({
    id: r.id, change: r.change, flags: r.flags, answers: r.answers.map((a, k) => ({
      ...a, at: `${m.at}/${i}/answers/${k}/score`, deltaAt: `${m.at}/${i}/answers/${k}/delta`, valuesAt: `${m.at}/${i}/answers/${k}`,
    })),
  }));
  const ofResult = (m) => m.ids.map((id, i) => {
    const said = sampleOf(id), reference = base() < 0 || !m.columns[base()] ? null : m.columns[base()].scores[i];
    const answers = m.columns.map((c, s) => c && c.places[i] !== null ? {
      s, score: c.scores[i], at: `${c.at}/${c.places[i]}/score`, outcome: c.outcomes[i], reason: c.reasons[i],
      texts: c.texts[i] !== undefined ? [{ text: c.texts[i], flags: [] }] : textsOf(said, s), of: 0,
    } : null).filter((a) => a);
    const moves = answers.map((a) => a.score === null || reference === null ? 0 : Math.abs(a.score - reference));
    return { id, change: Math.max(0, ...moves), flags: said ? said.flags : [], answers };
  });
  const stem = (id) => id.split("#")[0];
  let samples = null;
  const sampleOf = (id) => {
    if (!samples) {
      const m = data.measures.find((x) => x.rows);
      samples = new Map((m ? m.rows : []).map((r) => [r.id, r]));
    }
    return samples.get(id) || samples.get(stem(id));
  };
  const textsOf = (row, s) => (row ? row.answers.filter((a) => a.s === s).flatMap((a) => a.texts) : []);

  // who disagrees: policies on one item, or two measures on one policy's item
  const split = (r) => r.answers.some((a) => a.outcome === "w") && r.answers.some((a) => a.outcome === "l");
  const between = (r) => {
    if (!quarrels) {
      const seen = new Map();
      data.measures.forEach((m) => rowsOf(m).forEach((x) => x.answers.forEach((a) => {
        const key = stem(x.id) + "\u0000" + a.s;
        if (a.outcome === "w" || a.outcome === "l") seen.set(key, (seen.get(key) || "") + a.outcome);
      })));
      quarrels = new Set([...seen].filter(([, v]) => v.includes("w") && v.includes("l")).map(([k]) => k));
    }
    return r.answers.some((a) => quarrels.has(stem(r.id) + "\u0000" + a.s));
  };

  const subject = () => one("#item-subject") ? one("#item-subject").value : "";
  const mine = (r) => subject() === "" ? r.answers : r.answers.filter((a) => String(a.s) === subject());
  const has = (letter) => (r) => mine(r).some((a) => a.outcome === letter);
  const kinds = () => [
    ["all", "all", () => true],
    ...(base() < 0 ? [] : [["w", "better than base", has("w")], ["l", "worse than base", has("l")], ["s", "same as base", has("s")]]),
    ["u", "unscored", (r) => mine(r).some((a) => a.score === null)],
    ...(data.subjects.length > 2 ? [["split", "policies disagree", split]] : []),
    ...(base() < 0 || data.measures.length < 2 ? [] : [["between", "measures disagree", between]]),
    ["flagged", "folded as harmful", (r) => r.flags.length > 0],
  ];
  const measure = () => data.measures[Number(one("#item-measure").value)];
  const words = new Map();
  const text = (r) => {
    if (!words.has(r)) {
      const parts = [r.id, ...promptOf(r.id).map((t) => t.content), ...givenOf(r.id).map((t) => t.text), ...r.answers.flatMap((a) => a.texts.map((t) => t.text))];
      words.set(r, parts.join("\n").toLowerCase());
    }
    return words.get(r);
  };
  const givenOf = (id) => (data.given && (data.given[id] || data.given[stem(id)])) || [];
  const promptOf = (id) => data.prompts[id] || data.prompts[stem(id)] || [];

  // one direction for all: the smaller, the worse; targets by distance
  const goodness = (score, way) => score === null ? Infinity : way === "down" ? -score
    : way.startsWith("target:") ? -Math.abs(score - Number(way.slice(7))) : score;
  const orders = {
    change: (a, b) => b.change - a.change,
    worst: (a, b) => a.worst - b.worst,
    id: (a, b) => a.id.localeCompare(b.id, undefined, { numeric: true }),
  };
  const update = () => {
    const m = measure(), word = one("#item-find").value.toLowerCase().trim();
    rows = rowsOf(m);
    const found = rows.filter((r) => mine(r).length > 0 && (word === "" || text(r).includes(word)));
    const fits = new Map(kinds().map(([key, , test]) => [key, found.filter(test)]));
    if (!fits.has(outcome)) outcome = "all";
    all("#item-outcomes button").forEach((b) => {
      b.setAttribute("aria-pressed", String(b.value === outcome));
      b.querySelector("span").textContent = String(fits.get(b.value).length);
    });
    found.forEach((r) => { r.worst = Math.min(...mine(r).map((a) => goodness(a.score, m.direction))); });
    shown = fits.get(outcome).slice().sort((a, b) => orders[one("#item-sort").value](a, b) || orders.id(a, b));
    at = Math.min(at, Math.max(0, Math.ceil(shown.length / PAGE) - 1));
    draw(m);
  };
  const draw = (m) => {
    const first = at * PAGE, pages = Math.max(1, Math.ceil(shown.length / PAGE));
    one("#item-list").replaceChildren(...shown.slice(first, first + PAGE).map((r) => card(r, m)));
    one("#item-count").textContent = shown.length === 0 ? `none of ${rows.length}`
      : `${first + 1} to ${Math.min(shown.length, first + PAGE)} of ${shown.length}` + (shown.length < rows.length ? `, ${rows.length} in all` : "");
    one("#item-page").textContent = `page ${at + 1} of ${pages}`;
    one("#item-back").disabled = at === 0;
    one("#item-next").disabled = at + 1 >= pages;
    page.refresh();
  };

  const said = (t) => {
    if (!t.text.trim()) return make("p", { class: "said empty" }, t.failure ? `no answer: ${t.failure}` : "empty response");
    if (t.text.length <= 320) return make("p", { class: "said", dir: "auto" }, t.text);
    return make("details", { class: "long" },
      make("summary", {}, make("span", { class: "said preview", dir: "auto" }, t.text.slice(0, 320) + "…"),
        make("span", { class: "show" }, `show all ${t.text.length} characters`)),
      make("p", { class: "said", dir: "auto" }, t.text));
  };
  const answer = (a, m) => {
    const s = data.subjects[a.s], good = { w: "better", l: "worse" }[a.outcome];
    const score = make("p", { class: "score" }, num(a.score, m.unit, a.at));
    if (a.reason) score.append(make("span", { class: "none" }, ` (${a.reason.replaceAll("_", " ")})`));
    const kind = `delta ${{ w: "won", l: "lost" }[a.outcome] || ""}`;
    if (a.delta !== null && a.delta !== undefined) score.append(make("span", { class: kind }, num(a.delta, m.unit, a.deltaAt, true), good ? ` ${good}` : ""));
    else if (good) score.append(make("span", { class: kind }, good));
    const values = Object.entries(a.values || {});
    if (values.length) score.append(make("small", {}, ...values.flatMap(([k, v], i) => [i ? " · " : "", `${k} `, v === null ? "–" : num(v, "bare", a.valuesAt + "/values/" + k, true)])));
    const notes = a.texts.flatMap((t) => [said(t),
      t.finish === "length" ? make("p", { class: "hint" }, "cut at the length limit") : null,
      t.verdict ? make("p", { class: "hint" }, `verdict: ${t.verdict}`) : null,
      t.flags && t.flags.length ? make("p", { class: "hint" }, `flags: ${t.flags.join(", ")}`) : null]);
    if (a.of > a.texts.length) notes.push(make("p", { class: "hint" }, `${a.of - a.texts.length} more responses are in the JSON`));
    return make("div", { class: "answer", "data-subject": s.id, "data-outcome": a.outcome },
      make("p", { class: "who" }, badge(s), s.label), ...notes, score);
  };
  const badge = (s) => make("span", { class: `mark m${s.base ? 0 : s.mark ? 1 + (s.mark - 1) % 7 : 1}`, "aria-hidden": "true" }, String(s.mark));
  const card = (r, m) => {
    const turns = promptOf(r.id);
    // what the data hold stands above the scores that it got; responses of the policies have their own measure
    const given = m.given ? givenOf(r.id) : [];
    const head = make("header", {}, make("h3", { class: "sample-id" }, r.id), ...turns.map((t) => make("div", { class: "turn" },
      turns.length > 1 || t.role !== "user" || given.length ? make("span", { class: "role" }, t.role) : null, said({ text: t.content }))),
      ...given.map((t) => make("div", { class: "turn given" }, make("span", { class: "role" }, t.label || "response"), said({ text: t.text }))));
    const answers = make("div", { class: "answers" }, ...r.answers.map((a) => answer(a, m)));
    return make("article", { class: "sample", "data-id": r.id }, head, r.flags.length
      ? make("details", { class: "fold harmful" }, make("summary", {}, `Responses folded: they may show ${r.flags.join(", ")}`), answers) : answers);
  };

  const open = (whole) => {
    data = whole; made.clear(); samples = null; quarrels = null; at = 0;
    const levels = new Map();
    data.measures.forEach((m, i) => {
      const name = m.rows ? (m.name === "responses" ? "responses, with the goal's utility" : m.name) : `${m.metric} (${m.variant})`;
      if (!levels.has(m.level)) levels.set(m.level, make("optgroup", { label: `level: ${m.level}` }));
      levels.get(m.level).append(make("option", { value: String(i) }, name));
    });
    one("#item-measure").replaceChildren(...levels.values());
    one("#item-measure").value = "0";
    one("#item-sort").value = base() < 0 ? "worst" : "change";
    one("#item-outcomes").replaceChildren(...kinds().map(([key, name]) =>
      make("button", { type: "button", value: key, "aria-pressed": "false" }, name + " ", make("span", { class: "num" }))));
    all("#item-outcomes button").forEach((b) => b.addEventListener("click", () => { outcome = b.value; at = 0; update(); }));
    update();
  };
  const turn = (step) => { at += step; draw(measure()); box.scrollIntoView(); one("#item-list").focus({ preventScroll: true }); };
  all("#items .controls select, #items .controls input[type=search]").forEach((e) => e.addEventListener("input", () => { at = 0; update(); }));
  one("#item-back").addEventListener("click", () => turn(-1));
  one("#item-next").addEventListener("click", () => turn(1));
  if (one("#item-file")) one("#item-file").addEventListener("change", async (e) => {
    const file = e.target.files[0];
    if (!file) return;
    try { open(JSON.parse(await file.text())); one("#item-note").textContent = `All items of ${file.name} are shown.`; }
    catch (problem) { one("#item-note").textContent = `${file.name} is not an item table of valign: ${problem.message}`; }
  });
  const whole = await unpack("#item-data");
  page.items = () => data;
  open(whole);
  const still = one("#sample-list");
  if (still) still.remove();
  box.classList.add("ready");
})();

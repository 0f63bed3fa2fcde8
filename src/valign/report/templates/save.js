// exports: the report as JSON, numbers and items as CSV, every figure as SVG and PNG. Nothing leaves the machine.
(() => {
  const name = (document.title || "report").split(" · ")[0].toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 60) || "report";
  const save = (content, type, file) => {
    const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: file });
    document.body.append(link);
    link.click();
    link.remove();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };

  // a spreadsheet runs a text that begins like a formula: such a text gets an apostrophe before it
  const cell = (x) => {
    if (x === null || x === undefined) return "";
    if (typeof x === "number") return String(x);
    const text = /^[=+\-@\t\r]/.test(x) ? "'" + x : String(x);
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const csv = (head, rows) => [head, ...rows].map((r) => r.map(cell).join(",") + "\r\n").join("");

  const NUMBERS = ["subject", "level", "metric", "variant", "value", "unit", "direction", "low", "high", "confidence",
    "interval_method", "n", "unscored", "reasons", "cluster_unit", "clusters", "best", "worst", "chance", "place"];
  page.numbersCsv = (report) => {
    const placed = [...report.headline.map((r, i) => [r, `/headline/${i}`]),
      ...report.sections.flatMap((s, i) => s.results.map((r, k) => [r, `/sections/${i}/results/${k}`]))];
    return csv(NUMBERS, placed.map(([r, at]) => {
      const span = r.interval || {}, anchors = r.anchors || {}, reasons = Object.entries(r.n_unscored || {}), cluster = r.cluster || {};
      return [r.subject, r.level, r.metric, r.variant, r.value, r.unit, r.direction, span.low, span.high, span.level, span.method, r.n,
        reasons.reduce((sum, [, n]) => sum + n, 0), reasons.map(([k, n]) => `${k} ${n}`).join("; "), cluster.unit, cluster.count,
        anchors.best, anchors.worst, anchors.chance, at];
    }));
  };
  const ITEMS = ["item", "level", "measure", "variant", "subject", "score", "unit", "outcome", "reason", "prompt", "response"];
  const WORDS = { w: "better", l: "worse", s: "same", u: "unscored", b: "base", n: "" };
  page.itemsCsv = (data) => {
    const spoken = (id) => (data.prompts[id] || data.prompts[id.split("#")[0]] || []).map((t) => t.content).join("\n\n");
    const given = (id) => ((data.given && (data.given[id] || data.given[id.split("#")[0]])) || [])
      .map((t) => (t.label ? `${t.label}: ${t.text}` : t.text)).join("\n\n");
    const out = [];
    data.measures.forEach((m) => {
      if (m.rows) m.rows.forEach((r) => r.answers.forEach((a) => out.push([r.id, m.level, m.name, "utility", data.subjects[a.s].id, a.score, m.unit,
        WORDS[a.outcome], "", spoken(r.id), a.texts.map((t) => t.text).join("\n\n")])));
      else m.ids.forEach((id, i) => m.columns.forEach((c, s) => {
        if (c && c.places[i] !== null) out.push([id, m.level, m.metric, m.variant, data.subjects[s].id, c.scores[i], m.unit, WORDS[c.outcomes[i]],
          c.reasons[i], spoken(id), c.texts[i] || (m.given ? given(id) : "")]);
      }));
    });
    return csv(ITEMS, out);
  };

  // a figure with the page's style inside an SVG, as wide and high as it stands here
  page.drawing = (figure) => {
    const copy = figure.cloneNode(true), space = document.documentElement.namespaceURI;
    copy.removeAttribute("id");
    all(".tools", copy).forEach((e) => e.remove());
    const box = make("div", { class: "js", style: "font: 16px/1.55 var(--sans); color: var(--ink); background: var(--paper); padding: 16px; height: 100%" },
      make("style", {}, one("style").textContent), copy,
      make("p", { class: "hint", style: "margin-top: 12px" }, `${document.title} · ${figure.id.replace("figure-", "")}`));
    const width = Math.ceil(figure.offsetWidth) + 32, height = Math.ceil(figure.offsetHeight) + 72;
    const inside = new XMLSerializer().serializeToString(box);
    return { width, height, text: `<svg xmlns="${one("svg").namespaceURI}" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}">`
      + `<foreignObject width="100%" height="100%">${inside.includes(space) ? inside : inside.replace("<div", `<div xmlns="${space}"`)}</foreignObject></svg>` };
  };
  page.picture = async (figure, scale = 2) => {
    const { width, height, text } = page.drawing(figure), image = new Image();
    image.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
    await image.decode();
    const canvas = make("canvas", { width: width * scale, height: height * scale }), pen = canvas.getContext("2d");
    pen.scale(scale, scale);
    pen.drawImage(image, 0, 0);
    return new Promise((done) => canvas.toBlob(done, "image/png"));
  };

  const say = (text) => { one("#save-note").textContent = text; };
  const kinds = {
    json: async () => save(JSON.stringify(await unpack("#report-data"), null, 1), "application/json", `${name}.json`),
    numbers: async () => save(page.numbersCsv(await unpack("#report-data")), "text/csv", `${name}-numbers.csv`),
    items: async () => save(page.itemsCsv(page.items ? page.items() : await unpack("#item-data")), "text/csv", `${name}-items.csv`),
    svg: async (b) => save(page.drawing(b.closest("figure")).text, "image/svg+xml", `${name}-${b.closest("figure").id}.svg`),
    png: async (b) => save(await page.picture(b.closest("figure")), "image/png", `${name}-${b.closest("figure").id}.png`),
  };
  all("[data-save]").forEach((b) => b.addEventListener("click", async () => {
    try { await kinds[b.dataset.save](b); say(""); }
    catch (problem) { say(`This browser could not save it (${problem.message}). The command "valign report FILE" can.`); }
  }));
})();

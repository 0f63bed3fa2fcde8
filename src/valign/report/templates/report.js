"use strict";
(() => {
  const all = (q, root) => Array.from((root || document).querySelectorAll(q));
  const one = (q) => document.querySelector(q);
  document.documentElement.classList.add("js");

  // policies shown: everything that belongs to a policy carries its id
  const hidden = new Set();
  const show = () => {
    all("[data-subject]").forEach((e) => e.classList.toggle("off", hidden.has(e.dataset.subject)));
    all("[data-toggle]").forEach((b) => b.setAttribute("aria-pressed", String(!hidden.has(b.dataset.toggle))));
  };
  all("[data-toggle]").forEach((b) => b.addEventListener("click", () => {
    const id = b.dataset.toggle;
    if (hidden.has(id)) hidden.delete(id); else hidden.add(id);
    show();
  }));

  // value circle: which profile is drawn large
  all(".pick").forEach((b) => b.addEventListener("click", () => {
    all(".pick").forEach((x) => x.setAttribute("aria-pressed", String(x === b)));
    all(".layer").forEach((g) => g.classList.toggle("on", g.dataset.profile === b.dataset.profile));
  }));

  // tables: a click on a column's head sorts by its numbers, a second click turns the order
  all("table.sortable").forEach((table) => {
    all("th[data-sort]", table).forEach((th) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...th.childNodes);
      th.append(button);
      button.addEventListener("click", () => {
        const column = Array.from(th.parentNode.children).indexOf(th);
        const up = th.getAttribute("aria-sort") !== "ascending";
        all("th", table).forEach((x) => x.removeAttribute("aria-sort"));
        th.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (tr) => {
          const d = tr.children[column].querySelector("data");
          return d && d.value !== "" ? Number(d.value) : null;
        };
        const rows = all("tbody tr", table).map((tr) => [key(tr), tr]);
        rows.sort(([a], [b]) => (a === null) - (b === null) || (up ? a - b : b - a));
        rows.forEach(([, tr]) => tr.parentNode.append(tr));
      });
    });
  });

  // samples: find, filter, sort
  const list = one("#sample-list");
  if (list) {
    const cards = all(".sample", list);
    const text = new Map(cards.map((c) => [c, c.textContent.toLowerCase()]));
    const value = (id) => (one(id) ? one(id).value : "");
    const more = one("#sample-more"), PAGE = 6;
    let limit = PAGE;
    const update = () => {
      const word = value("#sample-find").toLowerCase(), outcome = value("#sample-outcome"), subject = value("#sample-subject");
      const by = value("#sample-sort");
      let n = 0;
      cards.slice().sort((a, b) => by === "id" ? a.dataset.id.localeCompare(b.dataset.id)
        : Number(b.dataset.change) - Number(a.dataset.change)).forEach((c) => {
        const fits = all(".answer", c).some((a) => (!subject || a.dataset.subject === subject) && (!outcome || a.dataset.outcome === outcome));
        n += fits && text.get(c).includes(word) ? 1 : 0;
        c.hidden = !(fits && text.get(c).includes(word)) || n > limit;
        list.append(c);
      });
      one("#sample-count").textContent = Math.min(n, limit) + " of " + n + " shown";
      more.hidden = n <= limit;
    };
    all(".controls input, .controls select").forEach((e) => e.addEventListener("input", () => { limit = PAGE; update(); }));
    more.addEventListener("click", () => { limit += 20; update(); });
    update();
  }

  // contents: the section that is being read
  const links = new Map(all(".toc a").map((a) => [a.getAttribute("href").slice(1), a]));
  const watch = new IntersectionObserver((seen) => seen.forEach((s) => {
    if (!s.isIntersecting) return;
    links.forEach((a) => a.removeAttribute("aria-current"));
    const link = links.get(s.target.id);
    if (!link) return;
    link.setAttribute("aria-current", "true");
    const bar = link.closest("ol");
    if (bar.scrollWidth > bar.clientWidth) bar.scrollLeft = link.offsetLeft - bar.clientWidth / 3;
  }), { rootMargin: "-15% 0px -75% 0px" });
  all("main > section, main > header").forEach((s) => watch.observe(s));
})();

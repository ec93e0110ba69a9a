
"use strict";
(() => {
  const BATCH = 48; // cards added at a time
  const OUTPUT = "../../"; // the output location, seen from a report's folder
  const report = JSON.parse(document.getElementById("data").textContent);
  const decisions = openDecisions();
  const $ = (id) => document.getElementById(id);

  // Text of strangers only ever becomes a text node or a property, never markup.
  function make(tag, properties, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties || {})) {
      if (name in element) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return element;
  }

  function address(path) {
    return path.split("/").map(encodeURIComponent).join("/");
  }

  // ---- decisions, kept in the browser for the whole run ----

  function openDecisions() {
    const key = `lynx-batch decisions ${report.run}`;
    const read = () => JSON.parse(localStorage.getItem(key)) || {};
    let kept = {}, isKept = true;
    try {
      kept = read();
    } catch {
      isKept = false;
    }
    // Another tab may have decided since, so each change starts from what is stored.
    const change = (apply) => {
      try {
        if (isKept) kept = read();
        apply();
        if (isKept) localStorage.setItem(key, JSON.stringify(kept));
      } catch {
        isKept = false;
      }
    };
    return {
      get: (id) => (Object.hasOwn(kept, id) ? kept[id] : ""),
      set: (id, decision) => change(() => { if (decision) kept[id] = decision; else delete kept[id]; }),
      clear: () => change(() => { kept = {}; }),
      reload: () => change(() => {}),
      all: () => Object.entries(kept),
      isKept: () => isKept,
    };
  }

  function showTally() {
    const all = decisions.all().map(([, decision]) => decision);
    const count = (wanted) => all.filter((decision) => decision === wanted).length;
    $("review").hidden = !all.length;
    $("tally").textContent = `${count("approve")} approved, ${count("reject")} rejected`;
    $("kept").textContent = decisions.isKept()
      ? "Kept in this browser."
      : "This browser keeps nothing: download the CSV before you leave.";
  }

  function download() {
    const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const lines = decisions.all().map(([id, decision]) => `${cell(id)},${decision}`);
    const csv = new Blob([["clip_id,decision", ...lines, ""].join("\r\n")], { type: "text/csv" });
    const link = make("a", { href: URL.createObjectURL(csv), download: `decisions-${report.run}.csv` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  }

  // ---- one card ----

  function stageOf(clip) {
    const stage = make("div", { className: "stage" });
    if (!clip.poster && !clip.video) {
      stage.classList.add("empty");
      stage.append(make("p", { className: "muted" }, "No picture"));
      return stage;
    }
    if (clip.size) stage.style.aspectRatio = clip.size.replace("x", " / ");
    if (clip.poster) {
      const poster = make("img", { alt: clip.video ? "" : `A frame of ${clip.name}`, loading: "lazy", decoding: "async", src: OUTPUT + address(clip.poster) });
      poster.onerror = () => poster.replaceWith(make("p", { className: "muted" }, "The poster is not where the report expects it."));
      stage.append(poster);
    }
    if (clip.video) {
      const button = make("button", { type: "button", className: "play", "aria-label": `Play ${clip.name}` });
      button.onclick = () => play(stage, clip);
      stage.append(button);
    }
    return stage;
  }

  function play(stage, clip) {
    const video = make("video", { controls: true, autoplay: true, loop: true, playsInline: true, src: OUTPUT + address(clip.video), "aria-label": clip.name });
    video.onplay = () => {
      for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
    };
    video.onerror = () => stage.replaceChildren(make("p", { className: "muted", role: "alert" }, "The video cannot be played. Is the folder clips where the report expects it?"));
    stage.replaceChildren(video);
    video.focus();
  }

  function scoresOf(clip) {
    const list = make("dl", { className: "scores" });
    for (const [name, label] of report.scores) {
      if (!clip.scores || clip.scores[name] === undefined) continue;
      const value = clip.scores[name];
      const isShare = /^likeness_(mean|p10|minimum|face_share)$|^unsafe$/.test(name);
      const shown = make("dd", {}, value.toFixed(2));
      list.append(make("dt", {}, label), shown);
      list.append(make("dd", {}, isShare ? make("meter", { min: 0, max: 1, value: Math.max(value, 0), "aria-label": label }) : ""));
    }
    return list.children.length ? list : null;
  }

  function detailsOf(clip) {
    const facts = [
      ["Prompt", clip.prompt], ["ClipId", clip.id], ["Row", clip.row],
      ["Video", clip.size && clip.frames ? `${clip.size}, ${clip.frames} frames at ${clip.fps} fps` : ""],
      ["Size", clip.bytes ? `${(clip.bytes / 1e6).toFixed(2)} MB` : ""],
      ["Seed", clip.seed], ["Tries", clip.tries > 1 ? `${clip.tries}, this one has try_number ${clip.try || 0} (counted from 0)` : ""],
      ["Attempts", clip.attempts > 1 ? clip.attempts : ""],
      ["Time", clip.seconds ? `${clip.seconds} s on ${clip.gpus || 1} ${clip.device || "GPU"}` : ""],
      ["Note", clip.earlier ? "rendered before this run" : ""],
      ...Object.entries(clip.marks || {}).map(([name, state]) => [`Mark: ${name}`, state]),
      ...Object.entries(clip.tags || {}),
    ];
    const list = make("dl");
    for (const [name, value] of facts) {
      if (value === undefined || value === "") continue;
      list.append(make("dt", {}, make("bdi", {}, name)), make("dd", {}, make("bdi", {}, String(value))));
    }
    return make("details", { className: "more-about" }, make("summary", {}, "Details", make("span", { className: "hidden" }, ` of ${clip.name}`)), list);
  }

  // What one can decide: a clip with a picture is approved or rejected, one that may be rendered after all can be asked for again.
  function choicesOf(clip) {
    if (!clip.id || clip.outcome === "abandoned") return [];
    if (clip.poster || clip.video) return [["approve", "Approve"], ["reject", "Reject"]];
    return clip.again ? [["reject", "Try again"]] : [];
  }

  function decideOf(clip, card) {
    const buttons = choicesOf(clip).map(([decision, label]) => {
      const button = make("button", { type: "button", className: decision }, label);
      button.onclick = () => {
        decisions.set(clip.id, decisions.get(clip.id) === decision ? "" : decision);
        refreshDecisions();
      };
      return [button, decision];
    });
    if (!buttons.length) return null;
    const show = () => {
      const made = decisions.get(clip.id);
      for (const [button, decision] of buttons) button.setAttribute("aria-pressed", String(made === decision));
      card.classList.toggle("approve", made === "approve");
      card.classList.toggle("reject", made === "reject");
    };
    card.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "VIDEO") return;
      const found = buttons.find(([, decision]) => decision[0] === event.key.toLowerCase());
      if (found) found[0].click();
    });
    show();
    card.showDecision = show;
    return make("div", { className: "decide", role: "group", "aria-label": `Your decision on ${clip.name}` }, ...buttons.map(([button]) => button));
  }

  const consentNote = {
    over: "The consent is over: export withholds this clip.",
    revoked: "Revoked: the clip is gone.",
  };

  function editionNote(clip) {
    if (!clip.inForce) return "";
    return clip.isOlder
      ? `This is what became of a redo. Edition ${clip.inForce} of the clip stays in force: export copies that one.`
      : `Committed since: edition ${clip.inForce} of the clip is in force.`;
  }

  function cardOf(clip) {
    const card = make("li", { className: "clip" });
    const photo = clip.photo ? make("img", { alt: `Photo of ${clip.subject || clip.name}`, loading: "lazy", decoding: "async", src: address(clip.photo) }) : null;
    const isProblem = clip.outcome !== "rendered";
    const about = make("div", { className: "about" },
      make("div", { className: "who" }, photo,
        make("div", {}, make("h3", {}, make("bdi", {}, clip.name)), clip.subject ? make("p", {}, make("bdi", {}, clip.subject)) : null),
        isProblem ? make("span", { className: `badge ${clip.outcome}` }, clip.outcome) : null),
      isProblem && clip.reason ? make("p", { className: `why ${clip.outcome}` }, make("bdi", {}, clip.reason)) : null,
      clip.inForce ? make("p", { className: "muted small" }, editionNote(clip)) : null,
      clip.consent ? make("p", { className: "why rejected" }, consentNote[clip.consent]) : null,
      make("p", { className: "prompt" }, make("bdi", {}, clip.prompt || "")),
      scoresOf(clip), detailsOf(clip));
    card.append(stageOf(clip), about, decideOf(clip, card) || "");
    return card;
  }

  // ---- filter, sort, show ----

  const form = $("filters");
  if (form) startSheet();
  $("save").onclick = download;
  $("forget").onclick = () => {
    if (confirm("Discard all your decisions on this run?")) {
      decisions.clear();
      refreshDecisions();
    }
  };
  addEventListener("storage", () => { decisions.reload(); refreshDecisions(); });
  showTally();

  function refreshDecisions() {
    for (const card of document.querySelectorAll(".clip")) if (card.showDecision) card.showDecision();
    showTally();
  }

  function fill(select, entries) {
    select.append(...entries.map(([value, label]) => make("option", { value }, label)));
  }

  function countBy(name) {
    const counts = new Map();
    for (const clip of report.clips) counts.set(clip[name] || "", (counts.get(clip[name] || "") || 0) + 1);
    const shorten = (text) => (text.length > 70 ? `${text.slice(0, 69)}…` : text);
    return [...counts].sort(([one], [other]) => one.localeCompare(other)).filter(([value]) => value)
      .map(([value, number]) => [value, `${shorten(value)} (${number})`]);
  }

  function startSheet() {
    const fields = form.elements;
    for (const name of ["outcome", "subject", "prompt"]) fill(fields[name], countBy(name));
    fill(fields.score, report.scores);
    $("score-filter").hidden = !report.scores.length;
    fill(fields.sort, [["row", "order of the manifest"], ["name", "name"], ["subject", "subject"], ["prompt", "prompt"], ["outcome", "outcome"]]);
    for (const [name, label] of report.scores) fill(fields.sort, [[`-${name}`, `${label}, highest first`], [`+${name}`, `${label}, lowest first`]]);
    for (const clip of report.clips) {
      clip.words = [clip.name, clip.id, clip.subject, clip.prompt, clip.outcome, clip.reason, clip.seed, ...Object.entries(clip.tags || {}).flat()].join("\n").toLowerCase();
    }
    let found = [], numShown = 0;
    const nearEnd = new IntersectionObserver((entries) => {
      if (entries.some((entry) => entry.isIntersecting) && !$("more").hidden) showMore();
    }, { rootMargin: "800px" });

    const isWanted = () => {
      const words = fields.text.value.toLowerCase().split(/\s+/).filter(Boolean);
      const [outcome, subject, prompt, decision] = ["outcome", "subject", "prompt", "decision"].map((name) => fields[name].value);
      const score = fields.score.value, least = parseFloat(fields.least.value), most = parseFloat(fields.most.value);
      const isInRange = (value) => value !== undefined && !(value < least) && !(value > most);
      return (clip) =>
        (!outcome || clip.outcome === outcome) && (!subject || clip.subject === subject) && (!prompt || clip.prompt === prompt) &&
        (!decision || (decisions.get(clip.id) || "none") === decision) &&
        ((Number.isNaN(least) && Number.isNaN(most)) || isInRange((clip.scores || {})[score])) &&
        words.every((word) => clip.words.includes(word));
    };

    const byOrder = () => {
      const order = fields.sort.value, isScore = /^[+-]/.test(order), name = order.slice(isScore ? 1 : 0);
      if (!isScore) {
        return (one, other) => (name === "row" ? 0 : String(one[name] || "").localeCompare(String(other[name] || ""))) || one.row - other.row;
      }
      const sign = order[0] === "-" ? -1 : 1;
      const value = (clip) => (clip.scores && clip.scores[name] !== undefined ? sign * clip.scores[name] : Infinity);
      return (one, other) => (value(one) === value(other) ? one.row - other.row : value(one) < value(other) ? -1 : 1);
    };

    const showMore = () => {
      const some = found.slice(numShown, numShown + BATCH);
      $("sheet").append(...some.map(cardOf));
      numShown += some.length;
      $("more").hidden = numShown >= found.length;
      nearEnd.unobserve($("more").parentElement);
      nearEnd.observe($("more").parentElement); // reports again, in case the end is still near
    };

    const update = () => {
      found = report.clips.filter(isWanted()).sort(byOrder());
      numShown = 0;
      $("sheet").replaceChildren();
      const [num, all] = [found.length, report.clips.length].map((number) => number.toLocaleString("en"));
      $("found").textContent = `${num === all ? "" : `${num} of `}${all} clip${all === "1" ? "" : "s"}`;
      showMore();
    };

    form.oninput = update;
    form.onsubmit = (event) => event.preventDefault();
    form.onreset = () => setTimeout(update);
    $("more").onclick = () => {
      const first = numShown;
      showMore();
      const card = $("sheet").children[first];
      const target = card && card.querySelector("button, summary");
      if (target) target.focus();
    };
    for (const button of document.querySelectorAll("button.filter")) { // its data are values of the form's fields
      button.onclick = () => {
        form.reset();
        for (const [name, value] of Object.entries(button.dataset)) fields[name].value = value;
        setTimeout(() => { update(); $("clips").focus(); $("clips").scrollIntoView(); });
      };
    }
    update();
  }
})();

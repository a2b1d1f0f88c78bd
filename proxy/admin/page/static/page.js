// Live figures. Without this script all of the page works, and is loaded again now
// and then. What has data-live is replaced by what a new load of the page has in its
// place; bars of downloads and jobs move as events come.
"use strict";
(() => {
	const live = [...document.querySelectorAll("[data-live]")].map((e) => e.id);
	if (live.length === 0 || !window.EventSource) return;
	const often = 15000; // milliseconds between two loads at least that often
	let source = null, timer = 0, loading = false;

	const say = (text) => {
		const spoken = document.getElementById("spoken");
		if (spoken && spoken.textContent !== text) spoken.textContent = text;
	};

	// renew replaces what is live, but nothing that the reader is in.
	async function renew() {
		clearTimeout(timer);
		timer = setTimeout(renew, often);
		if (loading || document.hidden) return;
		loading = true;
		try {
			const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
			if (answer.redirected) return location.reload(); // to the form for a token
			const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
			for (const id of live) {
				const old = document.getElementById(id), next = fresh.getElementById(id);
				if (!old || !next || old.innerHTML === next.innerHTML || old.contains(document.activeElement)) continue;
				old.querySelectorAll("details[open][id]").forEach((d) => next.querySelector("#" + CSS.escape(d.id))?.setAttribute("open", ""));
				old.replaceWith(document.adoptNode(next));
			}
		} catch {
			// The box does not answer now; the next load may do better.
		} finally {
			loading = false;
		}
	}

	// soon has the page loaded once for several events.
	function soon() {
		clearTimeout(timer);
		timer = setTimeout(renew, 700);
	}

	const bytes = (n) => {
		const units = ["B", "kB", "MB", "GB", "TB"];
		let i = 0;
		for (; n >= 999.5 && i < units.length - 1; i++) n /= 1000;
		return (i > 0 && n < 9.95 ? n.toFixed(1) : n.toFixed(0)) + " " + units[i];
	};

	// move moves the bar of a download or job; it reports whether there is one.
	function move(id, done, total, rate) {
		const row = document.getElementById(id);
		if (!row) return false;
		const bar = row.querySelector("progress"), figure = row.querySelector(".figure"), speed = row.querySelector(".rate");
		if (bar && total > 0) { bar.max = total; bar.value = done; }
		if (figure) figure.textContent = total > 0 ? bytes(done) + " of " + bytes(total) : bytes(done);
		if (speed) speed.textContent = bytes(rate) + "/s";
		return true;
	}

	const on = {
		fill: (f) => { if (f.state === "ended" || !move("fill-" + f.digest, f.have, f.size, f.rate)) soon(); },
		job: (j) => {
			const over = j.state !== "running" && j.state !== "waiting";
			if (over) say("Job " + j.kind + ": " + j.state.replace("_", " "));
			if (over || !move("job-" + j.id, j.done, j.total, j.rate)) soon();
		},
		problem: (p) => { say((p.state === "ended" ? "Over: " : "Problem: ") + p.problem.what); soon(); },
		upstream: soon,
	};

	// A page that nobody looks at holds no connection: a browser has six a box.
	function listen() {
		if (document.hidden) { source?.close(); source = null; clearTimeout(timer); return; }
		if (source) return;
		source = new EventSource("/api/v1/events?kind=" + Object.keys(on).join(","));
		for (const [kind, act] of Object.entries(on)) source.addEventListener(kind, (e) => act(JSON.parse(e.data)));
		timer = setTimeout(renew, often);
	}
	document.addEventListener("visibilitychange", () => { listen(); if (!document.hidden) renew(); });
	addEventListener("pagehide", () => source?.close());
	listen();
})();

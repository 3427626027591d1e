// The browser side of the page: the timeline follows the video and seeks in it, messages are shown in the visitor's
// language, uploads that would be refused are not sent, and the file and result survive reloading the page.
(() => {
  const maxBytes = __MAX_BYTES__;
  const texts = __TEXTS__;
  const text = texts[navigator.language.slice(0, 2)] ?? texts.en;
  const suffixes = __SUFFIXES__;
  const PING_S = 30;
  const find = (selector) => document.querySelector(selector);

  // ---- messages

  function say(message) {
    find("#refusal")?.remove();
    // Show one message at a time.
    for (const earlier of document.querySelectorAll("#status .alert, #live-status .alert")) earlier.hidden = true;
    const box = document.createElement("div");
    box.id = "refusal";
    box.setAttribute("role", "alert");
    const close = document.createElement("button");
    close.textContent = "×";
    close.setAttribute("aria-label", text.close);
    close.onclick = () => box.remove();
    box.append(message, close);
    document.body.append(box);
  }

  // Gradio's own messages have English titles. page.css hides them, and their text is shown here instead.
  function overhear(toast) {
    const message = toast.textContent.trim();
    if (toast.dataset.heard === message) return;
    toast.dataset.heard = message;
    const isOurs = text.language === "en" || /[а-яё]/i.test(message);
    say(message.startsWith("Connection to the server") ? text.connection_lost : isOurs ? message : text.failed);
  }

  // ---- uploads

  function check(event, files) {
    if (!files?.length) return;
    find("#refusal")?.remove();
    const sizes = [...files].map((file) => file.size);
    const isTooLarge = sizes.some((size) => size > maxBytes);
    const endings = [...files].map((file) => /\.[^.]*$/.exec(file.name.toLowerCase())?.[0] ?? "");
    const bad = endings.find((ending) => ending && !suffixes.includes(ending));
    if (!isTooLarge && !sizes.includes(0) && !bad) return;
    event.preventDefault();
    event.stopImmediatePropagation();
    if (event.type === "change") event.target.value = "";
    say(bad ? text.bad_suffix.replace("{suffix}", bad) : isTooLarge ? text.too_large_file : text.empty_file);
  }

  window.addEventListener("drop", (event) => check(event, event.dataTransfer?.files), true);
  window.addEventListener("change", (event) => check(event, event.target.files), true);

  // ---- timeline

  const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;

  function parts() {
    const answer = find("#result .answer");
    const [video, strip] = [answer?.querySelector("video"), answer?.querySelector(".timeline")];
    return video && strip ? { answer, video, strip, duration: Number(answer.dataset.duration) || 1 } : null;
  }

  function follow() {
    requestAnimationFrame(follow);
    const found = parts();
    if (!found) return;
    const { answer, video, strip, duration } = found;
    const now = Math.min(video.currentTime, duration);
    strip.querySelector(".playhead").style.left = `${(100 * now) / duration}%`;
    if (strip.dataset.shown === now.toFixed(1)) return;
    strip.dataset.shown = now.toFixed(1);
    strip.setAttribute("aria-valuenow", now.toFixed(2));
    let label = "";
    for (const row of answer.querySelectorAll("[data-start]")) {
      const isNow = row.dataset.start <= now && now < row.dataset.end;
      row.classList.toggle("is-now", isNow);
      if (isNow) label = row.querySelector("b").textContent;
    }
    strip.setAttribute("aria-valuetext", `${clock(now)} ${label}`);
  }

  function seek(seconds) {
    const found = parts();
    // The video repeats, so its very end would show the beginning.
    if (found) found.video.currentTime = Math.max(0, Math.min(seconds, found.duration - 0.05));
  }

  function seekTo(event, strip) {
    const { left, width } = strip.getBoundingClientRect();
    seek(((event.clientX - left) / width) * parts().duration);
  }

  document.addEventListener("pointerdown", (event) => {
    const strip = event.target.closest?.(".timeline");
    if (!strip) return;
    seekTo(event, strip);
    strip.setPointerCapture(event.pointerId);
    strip.onpointermove = (moved) => seekTo(moved, strip);
    strip.onpointerup = strip.onpointercancel = () => (strip.onpointermove = null);
  });
  document.addEventListener("click", (event) => {
    const row = event.target.closest?.("[data-start]");
    if (row) seek(Number(row.dataset.start) + 0.01);
    if (event.target.closest?.("#start")) reveal(find("#live"));
    else if (event.target.closest?.("#recognise, #examples [data-example]")) reveal(find("#status"));
  });
  document.addEventListener("keydown", (event) => {
    if (!event.target.matches?.(".timeline")) return;
    const { video, duration } = parts();
    const to = { ArrowLeft: video.currentTime - 1, ArrowRight: video.currentTime + 1, Home: 0, End: duration }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    seek(to);
  });

  // ---- results

  function reveal(element) {
    const { top, bottom } = element.getBoundingClientRect();
    const isSeen = top >= 0 && top < window.innerHeight * 0.6 && (bottom <= window.innerHeight || top < 100);
    const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (!isSeen) element.scrollIntoView({ behavior: isStill ? "auto" : "smooth", block: "start" });
  }

  let isAsked = false;

  function greet(answer) {
    if (answer.dataset.greeted) return;
    answer.dataset.greeted = "yes";
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) answer.querySelector("video").autoplay = false;
    if (isAsked) reveal(find("#result"));
    isAsked = false;
    keep("answer", answer.parentElement.innerHTML.replace(' data-greeted="yes"', ""));
  }

  const fileAddresses = () => {
    const found = [...document.querySelectorAll("#result [src], #result [href], #input-video a[href]")];
    return new Set(found.map((e) => e.src || e.href).filter((address) => address.includes("/gradio_api/file=")));
  };

  // The server keeps files as long as an open page asks for them.
  async function ping() {
    if (document.hidden) return;
    for (const address of fileAddresses()) {
      const answer = await fetch(address, { method: "HEAD" }).catch(() => null);
      const isShown = find("#result video")?.src === address;
      if (answer?.status !== 404 || !isShown || find("#result .expired")) continue;
      keep("answer", null);
      const note = document.createElement("p");
      note.className = "alert expired";
      note.setAttribute("role", "alert");
      note.textContent = text.expired;
      find("#result .answer").prepend(note);
    }
  }

  function keep(name, value) {
    try {
      if (value) sessionStorage.setItem(name, value);
      else sessionStorage.removeItem(name);
    } catch {
      // No space, or not allowed: then it does not survive reloading.
    }
  }

  document.addEventListener("submit", () => sessionStorage.clear());  // nothing stays after signing out

  // ---- called by page.py

  window.keepVideo = (video) => {
    keep("video", video && JSON.stringify(video));
    return video;
  };
  // The result and the file from before reloading, if the server still has them.
  window.restored = async () => {
    const [answer, video] = [sessionStorage.getItem("answer"), JSON.parse(sessionStorage.getItem("video"))];
    const address = /<video src="([^"]+)"/.exec(answer ?? "")?.[1];
    const stays = async (url) => url && (await fetch(url, { method: "HEAD" }).catch(() => null))?.ok;
    const [hasAnswer, hasVideo] = [await stays(address), await stays(video?.url)];
    if (!hasAnswer) keep("answer", null);
    if (!hasVideo) keep("video", null);
    return [hasAnswer ? answer : null, hasVideo ? video : null];
  };
  // Called when Gradio has built the page and set its own title.
  window.finishPage = () => {
    document.title = text.title;
    document.documentElement.lang = text.language;
    for (const button of document.querySelectorAll(".sign-out")) button.textContent = text.sign_out;
    find(".foot a").textContent = text.api;
    for (const id of ["status", "live-status", "now"]) find(`#${id}`)?.setAttribute("aria-live", "polite");
    document.addEventListener("click", (event) => {
      if (event.target.closest?.("#recognise, #examples [data-example]")) isAsked = true;
    });
    new MutationObserver(() => {
      for (const toast of document.querySelectorAll("[data-testid=toast-text]")) overhear(toast);
      for (const empty of document.querySelectorAll(".empty[aria-label]:not([role])")) {
        empty.setAttribute("role", "img");
        empty.setAttribute("aria-label", text.no_picture);
      }
      const answer = find("#result .answer");
      if (answer) greet(answer);
    }).observe(document.body, { subtree: true, childList: true });
    follow();
    setInterval(ping, PING_S * 1000);
    document.addEventListener("visibilitychange", ping);
  };
})();

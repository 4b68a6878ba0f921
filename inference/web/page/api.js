/** What both pages share: requests to the service, its token, and messages. */

export const $ = (id) => document.getElementById(id);

/** Sends a request to the API; throws an Error with the service's one-line message. */
export async function api(path, init = {}) {
  let response;
  try {
    response = await fetch(`api/${path}`, init);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("The service does not answer. Is it still running?");
  }
  if (response.status === 401 && path !== "session") {
    await logIn();
    return api(path, init);
  }
  const body = response.headers.get("content-type")?.includes("json") ? await response.json() : null;
  if (!response.ok) throw Object.assign(new Error(sentence(body?.detail ?? `The service answers ${response.status}.`)), { status: response.status });
  return body;
}

export const sentence = (text) => text.charAt(0).toUpperCase() + text.slice(1);

let login = null;
/** Asks for the token until it is right; all waiting requests share one dialog. */
function logIn() {
  login ??= new Promise((resolve) => {
    $("login").showModal();
    $("login").oncancel = (event) => event.preventDefault();
    $("login-form").onsubmit = async (event) => {
      event.preventDefault();
      try {
        const body = JSON.stringify({ token: $("token").value });
        await api("session", { method: "POST", headers: { "Content-Type": "application/json" }, body });
        $("login").close();
        login = null;
        resolve();
      } catch (error) { say("login-message", error.message, true); }
    };
  });
  return login;
}

/** Shows a message in its place; an empty one hides it. */
export function say(id, text, isError = false) {
  const element = $(id);
  element.textContent = text;
  element.classList.toggle("error", isError);
  element.hidden = !text;
}

// Swagger UI for the service's own description only: no other address can be loaded, and nothing is sent elsewhere.
addEventListener("DOMContentLoaded", () => {
  SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger", queryConfigEnabled: false, validatorUrl: null, persistAuthorization: false });
});

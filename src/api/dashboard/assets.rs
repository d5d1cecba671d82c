//! The files of the pages: they are part of the program.

use axum::response::{IntoResponse, Response};

use super::guarded;

/// `GET /assets/dashboard.css`
pub async fn style() -> Response {
    guarded(
        include_str!("../../../templates/assets/dashboard.css").into_response(),
        "text/css; charset=utf-8",
    )
}

/// `GET /assets/dashboard.js`
pub async fn script() -> Response {
    let script = include_str!("../../../templates/assets/dashboard.js");
    guarded(script.into_response(), "text/javascript; charset=utf-8")
}

/// `GET /assets/icon.svg`
pub async fn icon() -> Response {
    guarded(include_str!("../../../templates/assets/icon.svg").into_response(), "image/svg+xml")
}

//! The HTTP interface over a real socket, on a node whose consensus is played by a few lines: it applies at once, or
//! refuses, or keeps silent, as the test says.

mod command_line;
mod errors;
mod fake;
mod history;
mod money;
mod native;
mod requests;
mod sessions;
mod streams;

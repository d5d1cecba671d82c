//! Assertions of the nodes, caught: a node that stops itself rather than do harm is a bug that was found.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    /// `Some` while a history runs on this thread: what its last panic said.
    static SAID: RefCell<Option<String>> = const { RefCell::new(None) };
}

static HOOKED: Once = Once::new();

/// Panics of histories are told by the histories; all others as before.
fn hook() {
    HOOKED.call_once(|| {
        let before = take_hook();
        set_hook(Box::new(move |panic| {
            let in_history = SAID.with_borrow_mut(|said| {
                let said = said.as_mut()?;
                let place = panic.location().map(|at| format!(" ({}:{})", at.file(), at.line()));
                let text = panic.payload_as_str().unwrap_or("a panic without words");
                *said = format!("{text}{}", place.unwrap_or_default());
                Some(())
            });
            if in_history.is_none() {
                before(panic);
            }
        }));
    });
}

/// Runs a history; `Err`: an assertion stopped it, with what it said and where.
pub fn catch<T>(history: impl FnOnce() -> T) -> Result<T, String> {
    hook();
    SAID.set(Some(String::new()));
    let result = catch_unwind(AssertUnwindSafe(history));
    let said = SAID.take().unwrap_or_default();
    result.map_err(|_| said)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_with_its_place() {
        let said = catch(|| panic!("no {}", 1)).expect_err("panics");
        assert!(said.starts_with("no 1 (src/sim/assertion.rs:"), "{said}");
        assert_eq!(catch(|| 7), Ok(7));
    }
}

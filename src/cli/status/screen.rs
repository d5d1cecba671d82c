//! The terminal while the live view has it: the other screen, no cursor, keys as they are pressed. However the view
//! ends, the terminal is as it was.

use std::io::{self, Write};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crossterm::cursor::{Hide, Show};
use crossterm::event::{self, Event, KeyCode, KeyEvent, KeyModifiers};
use crossterm::execute;
use crossterm::terminal::{
    EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use tokio::sync::mpsc;

/// How long a look for keys may last: after that the thread sees whether anybody still wants them.
const KEY_WAIT: Duration = Duration::from_millis(100);
/// Keys that wait to be looked at. Nobody types faster than they are.
const KEYS_MAX: usize = 16;

/// Whether the terminal is ours, so that giving it back twice does no harm.
static TAKEN: AtomicBool = AtomicBool::new(false);

/// What the person at the terminal did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deed {
    /// Has seen enough.
    Leave,
    /// Ctrl-C.
    Interrupt,
    /// Made the window another size.
    Resize,
}

fn deed(event: &Event) -> Option<Deed> {
    match event {
        Event::Key(KeyEvent { code: KeyCode::Char('c'), modifiers, .. })
            if modifiers.contains(KeyModifiers::CONTROL) =>
        {
            Some(Deed::Interrupt)
        }
        Event::Key(KeyEvent { code: KeyCode::Char('q') | KeyCode::Esc, .. }) => Some(Deed::Leave),
        Event::Resize(..) => Some(Deed::Resize),
        _ => None,
    }
}

/// The terminal.
pub(super) struct Screen {
    deeds: mpsc::Receiver<Deed>,
}

impl Screen {
    /// Takes the terminal.
    ///
    /// # Errors
    /// If stdout, and where keys come from, are not one.
    pub(super) fn open() -> io::Result<Screen> {
        enable_raw_mode()?;
        TAKEN.store(true, Ordering::SeqCst);
        let (sender, deeds) = mpsc::channel(KEYS_MAX);
        // From here on its drop gives the terminal back.
        let screen = Screen { deeds };
        execute!(io::stdout(), EnterAlternateScreen, Hide)?;
        // The message of a panic would be written to a screen that goes away with it.
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            give_back(&mut io::stdout());
            before(info);
        }));
        std::thread::Builder::new().name("keys".to_string()).spawn(move || listen(&sender))?;
        Ok(screen)
    }

    /// Columns and rows.
    pub(super) fn size(&self) -> (u16, u16) {
        size().unwrap_or((80, 24))
    }

    /// Shows what was drawn.
    pub(super) fn show(&mut self, drawn: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(drawn.as_bytes())?;
        out.flush()
    }

    /// The next deed; waits for ever where nobody can do any more.
    pub(super) async fn deed(&mut self) -> Deed {
        match self.deeds.recv().await {
            Some(deed) => deed,
            None => std::future::pending().await,
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        give_back(&mut io::stdout());
    }
}

/// Gives the terminal back, once.
fn give_back(out: &mut impl Write) {
    if TAKEN.swap(false, Ordering::SeqCst) {
        // A terminal that is gone needs nothing.
        let _gone = execute!(out, Show, LeaveAlternateScreen);
        let _gone = disable_raw_mode();
    }
}

/// Until nobody wants to hear any more, or the terminal is gone.
fn listen(sender: &mpsc::Sender<Deed>) {
    while !sender.is_closed() {
        let event = match event::poll(KEY_WAIT) {
            Ok(false) => continue,
            Ok(true) => event::read(),
            Err(error) => Err(error),
        };
        match event {
            Ok(event) => {
                if let Some(deed) = deed(&event)
                    && sender.blocking_send(deed).is_err()
                {
                    return;
                }
            }
            Err(_gone) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_mean_what_they_mean_everywhere() {
        let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
        for (event, wanted) in [
            (key(KeyCode::Char('q'), KeyModifiers::NONE), Some(Deed::Leave)),
            (key(KeyCode::Esc, KeyModifiers::NONE), Some(Deed::Leave)),
            (key(KeyCode::Char('c'), KeyModifiers::CONTROL), Some(Deed::Interrupt)),
            (key(KeyCode::Char('c'), KeyModifiers::NONE), None),
            (Event::Resize(80, 24), Some(Deed::Resize)),
        ] {
            assert_eq!(deed(&event), wanted, "{event:?}");
        }
    }

    #[test]
    fn a_panic_gives_the_terminal_back_once() {
        struct Taken<'a>(&'a mut Vec<u8>);
        impl Drop for Taken<'_> {
            fn drop(&mut self) {
                give_back(self.0);
            }
        }
        let mut out = Vec::new();
        let result = panic::catch_unwind(panic::AssertUnwindSafe(|| {
            TAKEN.store(true, Ordering::SeqCst);
            let _taken = Taken(&mut out);
            panic!("while it was shown");
        }));
        assert!(result.is_err());
        let text = String::from_utf8(out).expect("text");
        assert_eq!(text, "\x1b[?25h\x1b[?1049l");
        let mut again = Vec::new();
        give_back(&mut again);
        assert_eq!(again, Vec::<u8>::new());
    }
}

//! Ctrl-C and SIGTERM: the first stops the machine in good order, the second at once.

use std::path::PathBuf;
use std::thread::JoinHandle;
use std::time::Duration;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};
use vmm::lifecycle::{Ending, Event, EventSender};
use vmm::machine::PowerButton;

/// How long a guest that listens to its power button has to switch itself off.
const GRACE: Duration = Duration::from_secs(10);

/// Listens to signals while it lives.
#[derive(Debug)]
pub struct Stopper {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Stopper {
    /// Begins to listen. `socket` is removed when the process has to end at once.
    ///
    /// Errors: the system refuses.
    pub fn start(
        button: PowerButton,
        events: EventSender,
        socket: PathBuf,
    ) -> std::io::Result<Self> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let handle = signals.handle();
        let builder = std::thread::Builder::new().name("signals".to_owned());
        let thread = builder.spawn(move || {
            let mut asked = false;
            for signal in signals.forever() {
                if asked {
                    tracing::warn!(signal, "stopping at once");
                    std::fs::remove_file(&socket).ok();
                    at_once(signal);
                }
                asked = true;
                ask(signal, &button, &events);
            }
        })?;
        Ok(Self {
            handle,
            thread: Some(thread),
        })
    }
}

impl Drop for Stopper {
    fn drop(&mut self) {
        self.handle.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn ask(signal: i32, button: &PowerButton, events: &EventSender) {
    if !button.press() {
        tracing::info!(signal, "stopping the machine");
        events.send(Event::Halt(Ending::PowerOff));
        return;
    }
    tracing::info!(
        signal,
        seconds = GRACE.as_secs(),
        "power button pressed; the guest has this long, a second signal stops at once"
    );
    let events = events.clone();
    let late = std::thread::Builder::new().name("grace".to_owned());
    let late = late.spawn(move || {
        std::thread::sleep(GRACE);
        events.send(Event::Halt(Ending::PowerOff));
    });
    if let Err(error) = late {
        tracing::warn!(%error, "no thread to wait for the guest; a second signal stops at once");
    }
}

#[expect(
    clippy::exit,
    reason = "the operator asked a second time: whatever the orderly way waits for, this does not"
)]
fn at_once(signal: i32) {
    std::process::exit(128 + signal);
}

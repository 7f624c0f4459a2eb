//! Waiting for something, with progress on standard error: bars on a terminal, a line for each step elsewhere.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::control::api::{DiskStatus, MachineStatus, ReplicaStatus};

use super::show;
use super::{CtlError, Done, Session, say};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// From the top left corner, nothing.
const CLEAR_SCREEN: &str = "\x1b[H\x1b[2J";

/// A deadline, if there is one.
struct Patience {
    begin: Instant,
    within: Option<Duration>,
}

impl Patience {
    fn new(within: Option<Duration>) -> Self {
        Self {
            begin: Instant::now(),
            within,
        }
    }

    /// Waits for the next look. Errors: there is none, `what` was waited for.
    fn pause(&self, what: impl FnOnce() -> String) -> Done {
        match self.within {
            Some(within) if self.begin.elapsed() >= within => Err(CtlError::Late {
                within,
                what: what(),
            }),
            _ => {
                std::thread::sleep(LOOK_EVERY);
                Ok(())
            }
        }
    }
}

/// What is shown while one waits.
struct Progress {
    terminal: bool,
    bars: MultiProgress,
    lines: BTreeMap<String, (ProgressBar, String)>,
}

impl Progress {
    fn new() -> Self {
        Self {
            terminal: std::io::stderr().is_terminal(),
            bars: MultiProgress::new(),
            lines: BTreeMap::new(),
        }
    }

    /// Shows `text` in the line of `name`; `part`: how much is done of how much.
    fn show(&mut self, name: &str, text: &str, part: Option<(u64, u64)>) {
        let (bar, last) = self.lines.entry(name.to_owned()).or_insert_with(|| {
            let bar = self.bars.add(ProgressBar::new(0));
            (bar, String::new())
        });
        if self.terminal {
            let template = match part {
                Some(_) => "{prefix} {bar:30} {pos}/{len} {msg} {eta}",
                None => "{prefix} {spinner} {msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_prefix(name.to_owned());
            bar.set_message(text.to_owned());
            match part {
                Some((done, total)) => {
                    bar.set_length(total);
                    bar.set_position(done);
                }
                None => bar.tick(),
            }
            return;
        }
        // Every tenth is enough for a log.
        let tenth =
            part.map(|(done, total)| done.saturating_mul(10).checked_div(total).unwrap_or(10) * 10);
        let line = match tenth {
            Some(percent) => format!("{name}: {text}, {percent}%"),
            None => format!("{name}: {text}"),
        };
        if line != *last {
            // Nobody is left to be told if this fails.
            writeln!(std::io::stderr(), "{line}").ok();
            *last = line;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        for (bar, _) in self.lines.values() {
            bar.finish_and_clear();
        }
    }
}

/// Waits until the machine is where `order` leads.
pub(super) fn machine(
    session: &Session,
    order: &str,
    within: Duration,
    reached: impl Fn(&MachineStatus) -> bool,
) -> Done {
    let patience = Patience::new(Some(within));
    let mut progress = Progress::new();
    loop {
        let status = session.machine()?;
        if reached(&status) {
            return Ok(());
        }
        progress.show(order, status.state.name(), None);
        patience.pause(|| format!("{order}: the machine is {}", status.state))?;
    }
}

/// Waits until the machine has ended.
pub(super) fn stop(session: &Session, within: Option<Duration>) -> Done {
    let patience = Patience::new(within);
    let mut progress = Progress::new();
    loop {
        let status = match session.machine() {
            Ok(status) => status,
            Err(error) if error.is_gone() => return Ok(()),
            Err(error) => return Err(error),
        };
        // Seconds that are left would make a line each in a log.
        let text = match (&status.stop, progress.terminal) {
            (Some(_), true) => show::stopping(&status),
            (Some(stop), false) => format!("waits for {:?}", stop.waits_for).to_lowercase(),
            (None, _) => status.state.to_string(),
        };
        progress.show("stop", &text, None);
        patience.pause(|| {
            format!(
                "the machine is {}; {}",
                status.state,
                show::stopping(&status)
            )
        })?;
    }
}

/// Waits until the region server at `new` has all data and is in use.
pub(super) fn replica(
    session: &Session,
    disk: &str,
    new: SocketAddr,
    within: Option<Duration>,
) -> Done {
    let patience = Patience::new(within);
    let mut progress = Progress::new();
    loop {
        let status = session.disk(disk)?;
        let volume = status.volume.as_ref();
        if let Some(reason) = volume.and_then(|volume| volume.stopped.as_ref()) {
            return Err(CtlError::Failed(format!(
                "{disk}: the volume stopped: {reason}"
            )));
        }
        let replicas = volume.map_or(&[][..], |volume| &volume.replicas);
        let found = replicas
            .iter()
            .find(|it| it.address == new || it.leaving_for == Some(new));
        let Some(found) = found else {
            return Err(CtlError::Failed(format!(
                "{disk}: {new} is none of its region servers any more; somebody else replaced it"
            )));
        };
        if found.address == new && found.state == "active" {
            return Ok(());
        }
        show_replica(&mut progress, disk, found);
        patience.pause(|| {
            format!(
                "{disk}: {} is {}: {}",
                found.address, found.state, found.next
            )
        })?;
    }
}

fn show_replica(progress: &mut Progress, disk: &str, replica: &ReplicaStatus) {
    let name = format!("{disk} {}", replica.address);
    let text = format!("{} ({})", replica.state, replica.next);
    let part = replica.repair.map(|it| (it.done, it.total));
    match part {
        Some(part) => progress.show(&name, &replica.state, Some(part)),
        None => progress.show(&name, &text, None),
    }
}

/// Shows repairs until all replicas are in use.
pub(super) fn repairs(session: &Session, name: Option<&str>, within: Option<Duration>) -> Done {
    let patience = Patience::new(within);
    let mut progress = Progress::new();
    loop {
        let disks = match name {
            None => session.disks()?,
            Some(name) => vec![session.disk(name)?],
        };
        let mut left = Vec::new();
        for disk in &disks {
            for replica in disk.volume.iter().flat_map(|volume| &volume.replicas) {
                let name = format!("{} {}", disk.name, replica.address);
                if replica.state != "active" || replica.leaving_for.is_some() {
                    show_replica(&mut progress, &disk.name, replica);
                    left.push(format!("{name} is {}", replica.state));
                } else if progress.lines.contains_key(&name) {
                    progress.show(&name, "active", None);
                }
            }
        }
        if left.is_empty() {
            drop(progress);
            return result(session, name, &disks);
        }
        patience.pause(|| left.join(", "))?;
    }
}

fn result(session: &Session, name: Option<&str>, disks: &[DiskStatus]) -> Done {
    if session.json {
        let text = match (name, disks) {
            (Some(_), [disk]) => serde_json::to_string(disk),
            _ => serde_json::to_string(disks),
        };
        return say(&text.unwrap_or_default());
    }
    say(show::disks(disks).trim_end())
}

/// Shows machine and disks until the machine has ended, or `count` times.
pub(super) fn watch(session: &Session, interval: Duration, count: Option<u64>) -> Done {
    let screen = std::io::stdout().is_terminal() && !session.json;
    let mut before: (Instant, Vec<DiskStatus>) = (Instant::now(), Vec::new());
    let mut looks = 0;
    loop {
        let both = session
            .machine()
            .and_then(|machine| Ok((machine, session.disks()?)));
        let (machine, disks) = match both {
            Ok(both) => both,
            // It was there, and now it is not: that is how a machine ends.
            Err(error) if error.is_gone() && looks > 0 => return Ok(()),
            Err(error) => return Err(error),
        };
        let now = Instant::now();
        if session.json {
            let both = serde_json::json!({ "machine": machine, "disks": disks });
            say(&both.to_string())?;
        } else {
            let elapsed = (now - before.0).as_secs_f64();
            let text = show::look(&machine, &before.1, &disks, elapsed);
            let clear = if screen { CLEAR_SCREEN } else { "" };
            say(&format!("{clear}{text}"))?;
        }
        before = (now, disks);
        looks += 1;
        if count.is_some_and(|count| looks >= count) {
            return Ok(());
        }
        std::thread::sleep(interval);
    }
}

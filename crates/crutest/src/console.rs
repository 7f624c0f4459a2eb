//! Commands on standard input: the workload `cli`.

use std::io::{BufRead, Write};
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;

use crucible_upstairs::core::VolumeError;
use crucible_upstairs::volume::block_on;

use crate::attach::describe;
use crate::core::{Demand, Kind, Step};
use crate::engine::{Engine, Run, Tally};
use crate::report::Summary;

/// What `help` prints.
pub const HELP: &str = "\
read BLOCK [COUNT]    read, and verify what is known       write BLOCK [COUNT]   write
flush                 make durable                         WORKLOAD [COUNT]      generic, fill, verify, ...
expected BLOCK        what a read may find there           info                  size, region servers
activate [GEN]        activate again                       deactivate            flush and let go
replace OLD NEW       another region server                help, quit";

/// One line, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// Nothing.
    Empty,
    /// One read or write.
    Step(Step),
    /// A whole workload.
    Work(Kind, Option<u64>),
    /// What the log has of a block.
    Expected(u64),
    /// Size and states.
    Info,
    /// With this generation, or the next.
    Activate(Option<u64>),
    /// Let go.
    Deactivate,
    /// Old and new.
    Replace(SocketAddr, SocketAddr),
    /// The list of commands.
    Help,
    /// The end.
    Quit,
}

/// Understands a line.
pub fn parse(line: &str) -> Result<Line, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let Some((verb, rest)) = words.split_first() else {
        return Ok(Line::Empty);
    };
    let number = |at: usize| match rest.get(at) {
        None => Ok(None),
        Some(word) => word
            .parse::<u64>()
            .map(Some)
            .map_err(|_| format!("{word:?}: expected a number")),
    };
    let needed = |at: usize| number(at)?.ok_or_else(|| format!("{verb} needs a block"));
    let address = |at: usize| {
        let word = rest.get(at).copied().unwrap_or_default();
        let parsed = word.parse::<SocketAddr>();
        parsed.map_err(|_| format!("{word:?}: expected IP:PORT"))
    };
    let most = match *verb {
        "read" | "write" | "r" | "w" | "replace" => 2,
        "flush" | "f" | "info" | "deactivate" | "help" | "quit" | "q" => 0,
        _ => 1,
    };
    if let Some(extra) = rest.get(most) {
        return Err(format!("{verb}: {extra:?} is too much"));
    }
    Ok(match *verb {
        "read" | "r" => Line::Step(Step::Read {
            start: needed(0)?,
            count: number(1)?.unwrap_or(1),
        }),
        "write" | "w" => Line::Step(Step::Write {
            start: needed(0)?,
            count: number(1)?.unwrap_or(1),
        }),
        "flush" | "f" => Line::Step(Step::Flush),
        "expected" => Line::Expected(needed(0)?),
        "info" => Line::Info,
        "activate" => Line::Activate(number(0)?),
        "deactivate" => Line::Deactivate,
        "replace" => Line::Replace(address(0)?, address(1)?),
        "help" => Line::Help,
        "quit" | "q" => Line::Quit,
        name => match Kind::ALL.into_iter().find(|kind| kind.name() == name) {
            Some(kind) => Line::Work(kind, number(0)?),
            None => return Err(format!("{name:?} is no command; `help` lists them")),
        },
    })
}

/// Reads commands until `quit` or the end of the input, and answers to `out`.
///
/// Errors: input or output that fails. What fails on the volume is an answer.
pub fn run(
    engine: &mut Engine,
    seed: u64,
    stop: &AtomicBool,
    input: &mut dyn BufRead,
    out: &mut dyn Write,
) -> std::io::Result<Tally> {
    let mut total = Tally::default();
    let mut line = String::new();
    loop {
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(total);
        }
        let answer = match parse(&line) {
            Ok(Line::Quit) => return Ok(total),
            Ok(line) => {
                let (answer, tally) = perform(engine, seed, stop, line);
                if let Some(tally) = tally {
                    total = total.and(tally);
                }
                answer
            }
            Err(reason) => reason,
        };
        if !answer.is_empty() {
            writeln!(out, "{answer}")?;
        }
        out.flush()?;
    }
}

fn done(outcome: Result<(), VolumeError>) -> String {
    match outcome {
        Ok(()) => "ok".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn perform(
    engine: &mut Engine,
    seed: u64,
    stop: &AtomicBool,
    line: Line,
) -> (String, Option<Tally>) {
    let work = |engine: &mut Engine, steps: &mut dyn Iterator<Item = Step>, name: &str, depth| {
        let run = Run {
            depth,
            until: None,
            stop,
            stop_at_mismatch: false,
            final_flush: false,
        };
        let tally = engine.run(steps, &run, &mut |_| {});
        (Summary::new(name, seed, depth, &tally).text(), Some(tally))
    };
    match line {
        Line::Empty | Line::Quit => (String::new(), None),
        Line::Step(step) => work(engine, &mut [step].into_iter(), "step", 1),
        Line::Work(kind, count) => {
            let demand = Demand {
                seed,
                // What goes on for a time elsewhere goes on for a number here.
                count: count.or_else(|| kind.count()).or(Some(1000)),
                io_blocks: None,
            };
            let mut steps = kind.steps(engine.field(), demand);
            work(engine, &mut steps, kind.name(), kind.depth())
        }
        Line::Expected(block) => {
            let expected = engine.log.expected(block);
            let text = match (expected.low, expected.high) {
                (_, 0) => "nothing is known of it".to_owned(),
                (low, high) if low == high => format!("write {high}"),
                (low, high) => format!("write {low} to {high}"),
            };
            (text, None)
        }
        Line::Info => {
            let field = engine.field();
            let mut lines = vec![format!(
                "{} blocks of {} bytes, extents of {} blocks, generation {}",
                field.blocks,
                field.block_size,
                field.blocks_per_extent,
                engine.generation()
            )];
            lines.extend(describe(engine.volume()));
            (lines.join("\n"), None)
        }
        Line::Activate(generation) => (done(engine.activate(generation)), None),
        Line::Deactivate => (done(block_on(engine.volume().deactivate())), None),
        Line::Replace(old, new) => {
            let text = match engine.volume().replace_blocking(old, new) {
                Ok(result) => format!("{result:?}"),
                Err(error) => error.to_string(),
            };
            (text, None)
        }
        Line::Help => (HELP.to_owned(), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood() {
        assert_eq!(parse("  "), Ok(Line::Empty));
        assert_eq!(
            parse("read 5"),
            Ok(Line::Step(Step::Read { start: 5, count: 1 }))
        );
        assert_eq!(
            parse("w 5 7"),
            Ok(Line::Step(Step::Write { start: 5, count: 7 }))
        );
        assert_eq!(parse("generic 9"), Ok(Line::Work(Kind::Generic, Some(9))));
        assert_eq!(parse("activate"), Ok(Line::Activate(None)));
        let [old, new] = ["127.0.0.1:1", "[::1]:2"];
        assert_eq!(
            parse(&format!("replace {old} {new}")),
            Ok(Line::Replace(old.parse().unwrap(), new.parse().unwrap()))
        );
    }

    #[test]
    fn nonsense_is_answered() {
        for (line, words) in [
            ("fly", "no command"),
            ("read", "needs a block"),
            ("read x", "expected a number"),
            ("read 1 2 3", "too much"),
            ("quit now", "too much"),
            ("replace a b", "IP:PORT"),
        ] {
            assert!(parse(line).unwrap_err().contains(words), "{line}");
        }
    }

    #[test]
    fn every_command_stands_in_the_help() {
        for word in [
            "read",
            "write",
            "flush",
            "expected",
            "info",
            "activate",
            "deactivate",
            "replace",
            "quit",
        ] {
            assert!(HELP.contains(word), "{word}");
        }
    }
}

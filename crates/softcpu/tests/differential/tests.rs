//! The tests themselves.

use crate::campaign::{Campaign, Limit};
use crate::generate::Generated;
use crate::state::Case;
use crate::undefined::{self, Open};
use crate::{table, templates, text};
use iced_x86::{Decoder, DecoderOptions};
use std::time::Duration;

/// The seed of the quick sample. It is fixed so that a green run stays green; the long campaign takes others.
const SEED: u64 = 1;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn number(name: &str) -> Option<u64> {
    variable(name).map(|value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name} is not a number: {value}"))
    })
}

/// Whether the host's answers are the ones that the rows of `undefined` were written for.
fn host_decides() -> bool {
    let family = cpuinfo("cpu family").parse().unwrap_or(0);
    cpuinfo("vendor_id") == "AuthenticAMD" && family >= 25
}

/// The extensions that cases may use.
fn host_has_all() -> bool {
    is_x86_feature_detected!("sse4.2")
        && is_x86_feature_detected!("popcnt")
        && is_x86_feature_detected!("lzcnt")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("movbe")
        && is_x86_feature_detected!("aes")
        && is_x86_feature_detected!("pclmulqdq")
        && is_x86_feature_detected!("cmpxchg16b")
}

fn campaign(filter: &str) -> Option<Campaign> {
    if !host_has_all() {
        println!("NOT RUN: this host's processor lacks an extension that ours has");
        return None;
    }
    let known = crate::generate::Generator::new(filter)
        .codes()
        .next()
        .is_some();
    assert!(
        known,
        "DIFF_ONLY={filter}: no instruction has that name; a mnemonic, the beginning of one with *, or @integer, @x87, @sse"
    );
    match Campaign::new(filter) {
        Ok(campaign) => Some(campaign),
        Err(refused) => {
            println!("NOT RUN: no comparison with this host's processor: {refused}");
            None
        }
    }
}

fn run_and_report(seed: u64, limit: Limit) {
    let Some(mut campaign) = campaign(&variable("DIFF_ONLY").unwrap_or_default()) else {
        return;
    };
    let results = campaign.run(seed, limit).expect("the child runs");
    let (cases, mismatches) = results.totals();
    println!(
        "seed {seed}: {cases} cases in {:.1} s, {} encodings, {mismatches} mismatches",
        results.elapsed.as_secs_f64(),
        results
            .tallies
            .values()
            .filter(|(_, tally)| tally.cases > 0)
            .count(),
    );
    if let Some(path) = variable("DIFF_TABLE") {
        std::fs::write(path, table::print(&results, &processor()))
            .expect("the table can be written");
    }
    if mismatches > 0 {
        let report = campaign.report(&results);
        let verdict = format!("seed {seed}: {mismatches} of {cases} cases differ\n{report}");
        assert!(!host_decides(), "{verdict}");
        println!(
            "{verdict}NOT JUDGED: this host is not one whose answers decide where the manuals leave room"
        );
    }
}

/// The host's name for its processor.
fn processor() -> String {
    let [name, family, model] = ["model name", "cpu family", "model\t"].map(cpuinfo);
    format!("{name} family {family} model {model}")
}

/// A field of the first processor in the kernel's list.
fn cpuinfo(field: &str) -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text
        .lines()
        .find(|line| line.starts_with(field))
        .unwrap_or_default();
    line.split(':').nth(1).unwrap_or_default().trim().to_owned()
}

/// For a printed case of several instructions: whatever any of them leaves open.
fn sequence_open(bitness: u32, case: &Case) -> Option<Open> {
    let decoder = Decoder::with_ip(
        bitness,
        case.bytes(),
        case.state.rip(),
        DecoderOptions::NONE,
    );
    let instructions: Vec<_> = decoder.into_iter().collect();
    let open = instructions
        .iter()
        .fold(0, |open, instruction| open | instruction.rflags_undefined());
    (instructions.len() > 1).then(|| undefined::from_decoder(open))
}

#[test]
fn a_sample_of_instructions_does_what_the_host_does() {
    if variable("DIFF_CASE").is_some() {
        return;
    }
    let cases = number("DIFF_CASES").unwrap_or(30_000);
    let time = Duration::from_secs(number("DIFF_SECONDS").unwrap_or(60));
    run_and_report(number("DIFF_SEED").unwrap_or(SEED), Limit { cases, time });
}

#[test]
fn slow_millions_of_cases_do_what_the_host_does() {
    if variable("TRIVET_SLOW").is_none() {
        println!("skipped: set TRIVET_SLOW=1");
        return;
    }
    let fresh = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(2, |t| t.as_secs());
    let seed = number("DIFF_SEED").unwrap_or(fresh);
    let time = Duration::from_secs(number("DIFF_SECONDS").unwrap_or(120));
    run_and_report(
        seed,
        Limit {
            cases: number("DIFF_CASES").unwrap_or(u64::MAX),
            time,
        },
    );
}

#[test]
fn a_single_case_from_the_environment() {
    let Some(line) = variable("DIFF_CASE") else {
        return;
    };
    let Some(mut campaign) = campaign("") else {
        return;
    };
    let (case, bitness) = text::parse(&line).expect("a case");
    let instruction = templates::decode(bitness, case.bytes(), case.state.rip());
    let sequence = sequence_open(bitness, &case);
    let generated = Generated {
        case,
        instruction,
        bitness,
        sequence,
    };
    let differences = campaign
        .single(&generated)
        .expect("the child runs")
        .expect("the host ends");
    assert!(
        differences.is_empty(),
        "{:?}:\n{}",
        instruction.code(),
        differences.join("\n")
    );
}

#[test]
fn a_filter_that_names_nothing_is_noticed() {
    let names = |filter| {
        crate::generate::Generator::new(filter)
            .codes()
            .next()
            .is_some()
    };
    for filter in ["", "cmp", "cmp*", "CMP*", "@x87", "*"] {
        assert!(names(filter), "{filter}");
    }
    for filter in ["*cmp", "cm", "nothing*"] {
        assert!(!names(filter), "{filter}");
    }
}

#[test]
fn lines_of_text_name_cases_exactly() {
    let mut generator = crate::generate::Generator::new("");
    for seed in 0..500 {
        let Some(generated) = generator.case(seed) else {
            continue;
        };
        let line = text::print(&generated.case, generated.bitness);
        let (case, bitness) = text::parse(&line).expect("a printed case");
        assert_eq!(text::print(&case, bitness), line);
    }
}

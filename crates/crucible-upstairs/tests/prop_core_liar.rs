//! A region server that says anything at any time, also what fits. It may cost itself its place, and the guest the
//! data that only it could confirm; it can never panic the upstairs, stick its deadline, or leave a request
//! without an answer.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the helpers of the world stop a test that went wrong"
)]

mod core_world;

use bytes::Bytes;
use core_world::{BLOCK, World, config, geometry, job};
use crucible_protocol::{
    CrucibleError, ExtentId, ExtentState, JobId, Message, ReadBlockContext, ReadResponseHeader,
    ReconciliationId, RegionDefinition, SessionId, SessionKey,
};
use crucible_upstairs::core::Command;
use proptest::prelude::*;
use uuid::Uuid;
use vm_types::Span;

/// One word of the liar, or something else that happens.
#[derive(Clone, Debug)]
enum Step {
    Say { kind: u8, pick: usize, odd: bool },
    Write(u64),
    Read(u64),
    Flush,
    Advance(u64),
    Cut,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(
        prop_oneof![
            12 => (0..20_u8, 0..6_usize, prop::bool::weighted(0.15))
                .prop_map(|(kind, pick, odd)| Step::Say { kind, pick, odd }),
            3 => (0..30_u64).prop_map(Step::Write),
            3 => (0..30_u64).prop_map(Step::Read),
            1 => Just(Step::Flush),
            3 => (1..3_000_u64).prop_map(Step::Advance),
            1 => Just(Step::Cut),
        ],
        1..120,
    )
}

/// What the liar says: of the kind that was drawn, about one of the last jobs that it was sent.
fn lie(world: &World, kind: u8, pick: usize, odd: bool) -> Message {
    let status = world.up.status();
    let mut key = status.key;
    let mut generation = status.generation;
    if odd {
        key = SessionKey {
            session: SessionId(Uuid::nil()),
            ..key
        };
        generation = generation.wrapping_sub(u64::from(pick == 0));
    }
    let jobs: Vec<JobId> = world.sent[0].iter().rev().filter_map(job).collect();
    let job = jobs.get(pick).copied().unwrap_or(JobId(995 + pick as u64));
    let result = if pick == 5 {
        Err(CrucibleError::IoError("a lie".to_owned()))
    } else {
        Ok(())
    };
    let count = if odd { pick } else { 4 };
    let repair = ReconciliationId(pick as u64);
    let extent = ExtentId(pick as u32 * 1_000_000);
    let error = CrucibleError::HashMismatch;
    match kind {
        0 => Message::YesItsMe {
            version: 13 + u32::from(odd),
            repair_address: core_world::repair_address(0),
        },
        1 => Message::YouAreNowActive { key, generation },
        2 => Message::RegionInfo(RegionDefinition::new(
            geometry(),
            Uuid::from_u128(100 + u128::from(odd)),
            false,
        )),
        3 => Message::ExtentVersions {
            generations: vec![u64::MAX; count],
            flushes: vec![u64::MAX; 4],
            dirty: vec![true; 4],
        },
        4 => Message::VersionMismatch { version: 12 },
        5 => Message::YouAreNoLongerActive {
            new_key: key,
            new_generation: 1,
        },
        6 => Message::UuidMismatch {
            expected: Uuid::nil(),
        },
        7 => Message::Imok,
        8 => Message::WriteAck { key, job, result },
        9 => Message::WriteUnwrittenAck { key, job, result },
        10 => Message::FlushAck { key, job, result },
        11 => Message::BarrierAck { key, job, result },
        12 => Message::ExtentLiveCloseAck {
            key,
            job,
            result: result.map(|()| ExtentState {
                generation: u64::MAX,
                flush: u64::MAX,
                dirty: odd,
            }),
        },
        13 => Message::ExtentLiveRepairAckId { key, job, result },
        14 => Message::ExtentLiveAckId { key, job, result },
        15 => Message::ErrorReport { key, job, error },
        16 => Message::RepairAckId { repair },
        17 => Message::ExtentError {
            repair,
            extent,
            error,
        },
        18 => Message::ReadResponse {
            header: ReadResponseHeader {
                key,
                job,
                blocks: Ok(vec![ReadBlockContext::Unencrypted(1); pick]),
            },
            data: Bytes::from(vec![7; pick * BLOCK + usize::from(odd)]),
        },
        _ => Message::Unknown {
            number: 77,
            body: Bytes::new(),
        },
    }
}

/// Runs the steps against a liar in the place of the first region server.
fn check(mut world: World, steps: &[Step]) {
    world.paused[0] = true;
    for step in steps {
        match *step {
            Step::Say { kind, pick, odd } => {
                world.step_dial(0);
                if world.links[0].as_ref().is_some_and(|link| link.is_up) {
                    let message = lie(&world, kind, pick, odd);
                    world.say(0, message);
                }
            }
            Step::Write(block) => {
                world.write(block, 2, 1);
            }
            Step::Read(block) => {
                world.read(block, 2);
            }
            Step::Flush => {
                world.flush();
            }
            Step::Advance(ms) => world.advance(Span::from_millis(ms)),
            Step::Cut => world.cut(0),
        }
        world.run();
    }
    world.advance(Span::from_secs(200));
    let down = world.command(Command::ShutDown);
    assert!(world.is_answered(down));
    for token in &world.tokens {
        assert!(world.is_answered(*token), "{token:?} has no answer");
    }
    assert_eq!(world.up.status().jobs, 0);
}

fn cases() -> ProptestConfig {
    let slow = std::env::var_os("TRIVET_SLOW").is_some();
    ProptestConfig::with_cases(if slow { 2_000 } else { 100 })
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_liar_among_three_costs_nobody_else(steps in steps()) {
        check(World::active(), &steps);
    }

    #[test]
    fn a_liar_at_activation_costs_nothing_but_activation(steps in steps()) {
        let mut config = config();
        config.degraded_activation = Some(Span::from_secs(1));
        let mut world = World::with(config);
        world.activate(7);
        check(world, &steps);
    }
}

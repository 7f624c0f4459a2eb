//! Two sessions that want the same region.

use crucible_downstairs::store::Mode;
use crucible_protocol::Message;

use crate::support::{Server, blocks, key, read, small, write};

#[test]
fn a_higher_generation_takes_over_and_the_old_session_is_told() {
    let server = Server::fresh(&small());
    let (old, new) = (key(1, 1), key(2, 2));
    let mut first = server.active(old, 3);
    let mut second = server.active(new, 4);
    let expected = Message::YouAreNoLongerActive {
        new_key: new,
        new_generation: 4,
    };
    assert_eq!(first.receive(), Some(expected));
    assert!(first.is_closed());
    let answer = second.ask(&read(new, 1000, &[], 0, 1));
    assert!(matches!(answer, Message::ReadResponse { .. }));
}

#[test]
fn lower_and_equal_generations_see_the_end_and_disturb_nobody() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut first = server.active(own, 3);
    for (other, generation) in [(key(1, 2), 3), (key(2, 1), 3), (key(2, 1), 2), (own, 2)] {
        let mut peer = server.peer();
        peer.greet(other, false, false);
        peer.send(&Message::PromoteToActive {
            key: other,
            generation,
        });
        assert!(peer.is_closed(), "{other:?} {generation}");
    }
    first.ping();
    let answer = first.ask(&write(own, 1000, &[], 0, &blocks(1, 1)));
    assert!(matches!(answer, Message::WriteAck { result: Ok(()), .. }));
}

#[test]
fn the_same_session_reconnects_while_its_old_connection_still_stands() {
    let server = Server::fresh(&small());
    let own = key(1, 1);
    let mut first = server.active(own, 3);
    let mut second = server.active(own, 3);
    assert!(matches!(
        first.receive(),
        Some(Message::YouAreNoLongerActive { .. })
    ));
    assert!(first.is_closed());
    second.ping();
}

#[test]
fn a_generation_is_remembered_over_a_restart() {
    let server = Server::fresh(&small());
    drop(server.active(key(1, 1), 7));
    let directory = server.stop();
    let server = Server::over(directory, Mode::ReadWrite);
    let late = key(2, 2);
    let mut peer = server.peer();
    peer.greet(late, false, false);
    let (key, generation) = (late, 6);
    let yes = peer.ask(&Message::PromoteToActive { key, generation });
    assert_eq!(yes, Message::YouAreNowActive { key, generation });
    peer.ask(&Message::RegionInfoPlease);
    // Nothing was written at generation 7. What is shown of it makes an upstairs refuse.
    let Message::ExtentVersions { generations, .. } = peer.ask(&Message::ExtentVersionsPlease)
    else {
        panic!("no states");
    };
    assert_eq!(generations, [7, 0, 0, 0]);
    peer.send(&write(late, 1000, &[], 0, &blocks(1, 1)));
    assert!(peer.is_closed());
    server.active(late, 7).ping();
}

#[test]
fn two_that_fight_leave_one_winner_and_whole_blocks() {
    let server = Server::fresh(&small());
    let keys = [key(1, 1), key(2, 2)];
    std::thread::scope(|scope| {
        for (index, own) in keys.into_iter().enumerate() {
            let server = &server;
            scope.spawn(move || {
                for round in 0..10u64 {
                    let mut peer = server.peer();
                    peer.greet(own, false, false);
                    let generation = 1 + 2 * round + index as u64;
                    peer.send(&Message::PromoteToActive {
                        key: own,
                        generation,
                    });
                    peer.send(&Message::RegionInfoPlease);
                    peer.send(&Message::LastFlush { last: None });
                    let data = blocks(10 * index as u8, 8);
                    for job in 0..20 {
                        peer.send(&write(own, 1000 + job, &[], 0, &data));
                    }
                    // Whoever loses sees the end; whoever wins may be displaced at any time.
                    while let Some(message) = peer.receive() {
                        if matches!(&message, Message::WriteAck { job, .. } if job.0 == 1019) {
                            break;
                        }
                    }
                }
            });
        }
    });
    let own = key(3, 3);
    let mut peer = server.active(own, 1000);
    let Message::ReadResponse { header, data } = peer.ask(&read(own, 1000, &[], 0, 8)) else {
        panic!("no blocks");
    };
    assert!(header.blocks.is_ok());
    let first = blocks(0, 8);
    let second = blocks(10, 8);
    for (index, block) in data.chunks(512).enumerate() {
        let range = 512 * index..512 * (index + 1);
        assert!(block == &first[range.clone()] || block == &second[range]);
    }
}

//! A region server for tests of its supervisor: the test program itself, started again by `fake-child.sh`.
//!
//! Each [`Site`] is a directory of its own with the program, regions and logs; it is removed with the value.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// When started by `fake-child.sh`, this is the region server; among the tests it has nothing to do.
#[test]
fn the_program_itself_plays_the_child() {
    let Ok(words) = std::env::var("FAKE_CHILD") else {
        return;
    };
    let words: Vec<&str> = words.split_whitespace().collect();
    let value = |flag: &str| {
        let at = words.iter().position(|word| *word == flag).unwrap();
        words[at + 1]
    };
    let region = PathBuf::from(value("-d"));
    match words[0] {
        "create" => {
            fs::create_dir_all(&region).unwrap();
            let block_size: u64 = value("--block-size").parse().unwrap();
            let text = format!(
                r#"{{"block_size":{block_size},"extent_size":{{"value":{},"shift":{}}},"extent_count":{},
                "uuid":"{}","encrypted":{},"database_read_version":1,"database_write_version":1}}"#,
                value("--extent-size"),
                block_size.trailing_zeros(),
                value("--extent-count"),
                value("-u"),
                words.contains(&"--encrypted"),
            );
            fs::write(region.join("region.json"), text).unwrap();
        }
        "run" => {
            println!("mode {}", value("--mode"));
            let ip: IpAddr = value("-a").parse().unwrap();
            let port: u16 = value("-p").parse().unwrap();
            let listener = TcpListener::bind((ip, port)).unwrap();
            // Whoever is forgotten goes by itself after a while.
            std::thread::spawn(|| {
                std::thread::sleep(Duration::from_secs(60));
                std::process::abort();
            });
            for stream in listener.incoming() {
                drop(stream);
            }
        }
        other => panic!("{other}?"),
    }
}

/// A directory with a fake program in it.
pub(crate) struct Site {
    pub(crate) root: PathBuf,
    pub(crate) port_base: u16,
}

impl Site {
    pub(crate) fn new(name: &str) -> Self {
        let root = std::env::temp_dir().join(format!("dsc-{name}-{}", std::process::id()));
        fs::remove_dir_all(&root).ok();
        fs::create_dir_all(&root).unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/children/fake-child.sh");
        symlink(script, root.join("crucible-downstairs")).unwrap();
        symlink(std::env::current_exe().unwrap(), root.join("test-program")).unwrap();
        Self {
            root,
            port_base: free_ports(),
        }
    }

    pub(crate) fn behave(&self, behaviour: &str) {
        fs::write(self.root.join("behaviour"), behaviour).unwrap();
    }

    pub(crate) fn ds_bin(&self) -> PathBuf {
        self.root.join("crucible-downstairs")
    }

    /// The flags that `create` and `start` have in common.
    pub(crate) fn flags(&self) -> Vec<String> {
        let at = |name: &str| self.root.join(name).display().to_string();
        vec![
            "--ds-bin".to_owned(),
            at("crucible-downstairs"),
            "--output-dir".to_owned(),
            at("out"),
            "--region-dir".to_owned(),
            at("regions"),
            "--port-base".to_owned(),
            self.port_base.to_string(),
        ]
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.root).ok();
    }
}

/// The first of three ports, 10 apart, that nobody uses now. Different for each call in one process.
fn free_ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..200 {
        let step = NEXT.fetch_add(1, Ordering::SeqCst);
        // Below the range that systems hand out by themselves; processes start at different places.
        let base = 12_000 + (std::process::id() as u16 % 300) * 40 + (step % 30) * 31 % 7_000;
        let free = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        if (0..3).all(|index| free(base + index * 10)) {
            return base;
        }
    }
    panic!("no free ports");
}

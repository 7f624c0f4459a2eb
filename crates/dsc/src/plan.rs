//! What was typed, made definite: which child listens where and keeps its region where.

use std::path::{Path, PathBuf};

use crucible_protocol::{Geometry, GeometryError, REPAIR_PORT_OFFSET};
use uuid::Uuid;

use crate::args::{CreateArgs, PlaceArgs};

/// Ports of neighbours are this far apart.
pub const PORT_STEP: u32 = 10;
/// Where the region server's program is looked for when there is none beside ours.
pub const DS_BIN: &str = "target/release/crucible-downstairs";

/// One child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// The port for data; repair is 4000 above.
    pub port: u16,
    /// The directory of its region.
    pub region: PathBuf,
    /// The file that takes what it prints.
    pub log: PathBuf,
    /// Of a region that dsc makes.
    pub uuid: Uuid,
}

/// All children.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The region server's program.
    pub ds_bin: PathBuf,
    /// For logs.
    pub output_dir: PathBuf,
    /// As given, without duplicates.
    pub region_dirs: Vec<PathBuf>,
    /// The children in order.
    pub seats: Vec<Seat>,
}

/// What regions are to look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Sizes.
    pub geometry: Geometry,
    /// Whether blocks come sealed.
    pub encrypted: bool,
}

/// Arguments that do not fit together.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// `--region-count` is zero.
    #[error("--region-count 0: there must be at least one region")]
    NoRegions,
    /// A port would not be one, or its repair port would not.
    #[error(
        "--port-base {base} with {count} regions: the last one's repair port would be {repair}, above 65535"
    )]
    Ports {
        /// As given.
        base: u16,
        /// As given.
        count: u32,
        /// Data port and 4000.
        repair: u64,
    },
    /// The number of region directories is neither one nor that of regions.
    #[error(
        "--region-dir stands {given} times: give it once for all or {count} times, once for each region"
    )]
    RegionDirs {
        /// How many there are.
        given: usize,
        /// How many regions.
        count: u32,
    },
    /// Two regions in one directory.
    #[error(
        "--region-dir {0} stands more than once: two regions of one volume on one disk die together"
    )]
    RegionDirTwice(PathBuf),
    /// A region that cannot be.
    #[error("the region cannot be made: {0}")]
    Geometry(#[from] GeometryError),
    /// A region of no size.
    #[error("--extent-count 0: there must be at least one extent")]
    NoExtents,
    /// `--cleanup` would remove what `start` is to serve.
    #[error("--cleanup removes the regions: with `start` it needs --create, which makes new ones")]
    CleanupWithoutCreate,
}

/// The uuid that regions made by dsc have: told by the port (spec: section 8.1).
pub fn region_uuid(port: u16) -> Uuid {
    // Decimal digits read as hexadecimal ones.
    let digits = format!("{port}");
    let node = u64::from_str_radix(&digits, 16).unwrap_or_default();
    Uuid::from_fields(0x1234_5678, 0, 0, &node_bytes(node))
}

fn node_bytes(node: u64) -> [u8; 8] {
    (node & 0xffff_ffff_ffff).to_be_bytes()
}

/// The file that takes what the child on this port prints.
pub fn log_name(port: u16) -> String {
    format!("downstairs-{port}.txt")
}

/// The program to start: the one given, or the one beside `own` if it is there, or [`DS_BIN`].
pub fn ds_bin(given: Option<&Path>, own: Option<&Path>) -> PathBuf {
    if let Some(given) = given {
        return given.to_owned();
    }
    let beside = own
        .and_then(Path::parent)
        .map(|directory| directory.join("crucible-downstairs"));
    match beside {
        Some(beside) if beside.is_file() => beside,
        _ => PathBuf::from(DS_BIN),
    }
}

impl Plan {
    /// Checks what was typed. `own`: the path of the running program.
    pub fn new(args: &CreateArgs, own: Option<&Path>) -> Result<Self, PlanError> {
        let PlaceArgs {
            ds_bin: given,
            output_dir,
            region_dir,
        } = &args.place;
        let count = args.region_count;
        if count == 0 {
            return Err(PlanError::NoRegions);
        }
        let base = args.port_base;
        let last = u64::from(base) + u64::from(PORT_STEP) * u64::from(count - 1);
        let repair = last + u64::from(REPAIR_PORT_OFFSET);
        if repair > u64::from(u16::MAX) {
            return Err(PlanError::Ports {
                base,
                count,
                repair,
            });
        }
        let given_dirs = region_dir.len();
        if given_dirs != 1 && given_dirs != count as usize {
            return Err(PlanError::RegionDirs {
                given: given_dirs,
                count,
            });
        }
        for (index, directory) in region_dir.iter().enumerate() {
            if region_dir[..index].contains(directory) {
                return Err(PlanError::RegionDirTwice(directory.clone()));
            }
        }
        let seats = (0..count as u16)
            .zip(region_dir.iter().cycle())
            .map(|(index, directory)| {
                let port = base + index * PORT_STEP as u16;
                Seat {
                    port,
                    region: directory.join(port.to_string()),
                    log: output_dir.join(log_name(port)),
                    uuid: region_uuid(port),
                }
            })
            .collect();
        Ok(Self {
            ds_bin: ds_bin(given.as_deref(), own),
            output_dir: output_dir.clone(),
            region_dirs: region_dir.clone(),
            seats,
        })
    }
}

impl Shape {
    /// Checks what was typed.
    pub fn new(args: &CreateArgs) -> Result<Self, PlanError> {
        if args.extent_count == 0 {
            return Err(PlanError::NoExtents);
        }
        let geometry = Geometry::new(args.block_size, args.extent_size, args.extent_count)?;
        Ok(Self {
            geometry,
            encrypted: args.encrypted,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Arguments, Command};

    fn create(line: &str) -> CreateArgs {
        let words = ["dsc", "create"].into_iter().chain(line.split_whitespace());
        match Arguments::try_parse_from(words).unwrap().command {
            Command::Create(create) => create,
            other => panic!("{other:?}"),
        }
    }

    fn refused(line: &str) -> String {
        let args = create(line);
        match (Plan::new(&args, None), Shape::new(&args)) {
            (Err(error), _) | (Ok(_), Err(error)) => error.to_string(),
            (Ok(plan), Ok(_)) => panic!("accepted: {plan:?}"),
        }
    }

    #[test]
    fn three_seats_with_ports_directories_logs_and_uuids() {
        let plan = Plan::new(&create(""), None).unwrap();
        assert_eq!(plan.ds_bin, PathBuf::from(DS_BIN));
        let found: Vec<String> = plan
            .seats
            .iter()
            .map(|s| {
                let (region, log) = (s.region.display(), s.log.display());
                format!("{} {region} {log} {}", s.port, s.uuid)
            })
            .collect();
        assert_eq!(
            found,
            [8810, 8820, 8830].map(|port| format!(
                "{port} /var/tmp/dsc/region/{port} /tmp/dsc/downstairs-{port}.txt \
                 12345678-0000-0000-0000-00000000{port}"
            ))
        );
    }

    #[test]
    fn one_directory_each() {
        let line = "--region-count 2 --region-dir /a --region-dir /b --port-base 100";
        let plan = Plan::new(&create(line), None).unwrap();
        assert_eq!(plan.seats[0].region, PathBuf::from("/a/100"));
        assert_eq!(plan.seats[1].region, PathBuf::from("/b/110"));
    }

    #[test]
    fn the_last_repair_port_decides() {
        let plan = Plan::new(&create("--port-base 61515 --region-count 3"), None).unwrap();
        assert_eq!(plan.seats[2].port, 61535);
        assert!(refused("--port-base 61516 --region-count 3").contains("65536"));
        assert!(refused("--port-base 1 --region-count 4294967295").contains("above 65535"));
    }

    #[test]
    fn what_does_not_fit_together_is_refused_with_the_way_out() {
        assert!(refused("--region-count 0").contains("at least one"));
        assert!(refused("--region-dir /a --region-dir /b").contains("once for all or 3 times"));
        assert!(
            refused("--region-dir /a --region-dir /b --region-dir /a").contains("more than once")
        );
        assert!(refused("--block-size 1000").contains("power of two"));
        assert!(refused("--block-size 65536").contains("32768"));
        assert!(refused("--extent-size 0").contains("at least one block"));
        assert!(refused("--extent-count 0").contains("at least one extent"));
        assert!(refused("--extent-size 131073").contains("at most"));
    }

    #[test]
    fn the_program_beside_ours_is_preferred() {
        let own = std::env::current_exe().unwrap();
        assert_eq!(ds_bin(Some(Path::new("/x")), Some(&own)), Path::new("/x"));
        assert_eq!(ds_bin(None, None), Path::new(DS_BIN));
        let directory = std::env::temp_dir().join(format!("dsc-plan-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("crucible-downstairs"), "").unwrap();
        let found = ds_bin(None, Some(&directory.join("dsc")));
        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(found, directory.join("crucible-downstairs"));
    }

    #[test]
    fn uuids_show_the_port_in_decimal() {
        assert_eq!(
            region_uuid(65535).to_string(),
            "12345678-0000-0000-0000-000000065535"
        );
        assert_eq!(
            region_uuid(1).to_string(),
            "12345678-0000-0000-0000-000000000001"
        );
    }
}

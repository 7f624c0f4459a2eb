//! region.json (spec: disk 5.2).

use crate::geometry::{GeometryError, RegionDefinition};

/// A longer region.json is none, in bytes.
pub const REGION_FILE_LEN_MAX: usize = 64 << 10;

/// A region.json that does not describe a region.
#[derive(Debug, thiserror::Error)]
pub enum RegionFileError {
    /// Longer than any could be.
    #[error("{length} bytes: at most {REGION_FILE_LEN_MAX} are expected")]
    Length {
        /// In bytes.
        length: usize,
    },
    /// No JSON, or a field is missing or of the wrong type; the text says which, and where.
    #[error("{0}")]
    Json(#[from] serde_json::Error),
    /// A region that cannot be.
    #[error("{0}")]
    Geometry(#[from] GeometryError),
}

/// Reads region.json. All its fields must be there; others are ignored.
///
/// What comes back has a [`geometry`](RegionDefinition::geometry).
pub fn decode_region(file: &[u8]) -> Result<RegionDefinition, RegionFileError> {
    if file.len() > REGION_FILE_LEN_MAX {
        return Err(RegionFileError::Length { length: file.len() });
    }
    let region: RegionDefinition = serde_json::from_slice(file)?;
    region.geometry()?;
    Ok(region)
}

/// The bytes of region.json, as the reference writes them.
pub fn encode_region(region: &RegionDefinition) -> String {
    format!(
        r#"{{
  "block_size": {},
  "extent_size": {{
    "value": {},
    "shift": {}
  }},
  "extent_count": {},
  "uuid": "{}",
  "encrypted": {},
  "database_read_version": {},
  "database_write_version": {}
}}
"#,
        region.block_size,
        region.extent_size.value,
        region.extent_size.shift,
        region.extent_count,
        region.uuid,
        region.encrypted,
        region.database_read_version,
        region.database_write_version,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::geometry::Geometry;
    use uuid::Uuid;

    const FILE: &str = r#"{
  "block_size": 512,
  "extent_size": {
    "value": 100,
    "shift": 9
  },
  "extent_count": 15,
  "uuid": "12345678-0000-0000-0000-000000008810",
  "encrypted": false,
  "database_read_version": 1,
  "database_write_version": 1
}
"#;

    fn region() -> RegionDefinition {
        let uuid = Uuid::from_u128(0x1234_5678_0000_0000_0000_0000_0000_8810);
        RegionDefinition::new(Geometry::new(512, 100, 15).unwrap(), uuid, false)
    }

    #[test]
    fn the_file_is_the_one_that_the_reference_writes() {
        assert_eq!(encode_region(&region()), FILE);
        assert_eq!(decode_region(FILE.as_bytes()).unwrap(), region());
    }

    #[test]
    fn the_json_of_a_definition_is_that_of_the_file() {
        let json = serde_json::to_string_pretty(&region()).unwrap() + "\n";
        assert_eq!(json, FILE);
    }

    #[test]
    fn unknown_fields_and_other_white_space_are_no_obstacle() {
        let file = FILE
            .replace("\"encrypted\"", "\"later\": [{}, null], \"encrypted\"")
            .replace('\n', " ");
        assert_eq!(decode_region(file.as_bytes()).unwrap(), region());
    }

    fn fault(from: &str, to: &str) -> String {
        let file = FILE.replace(from, to);
        assert_ne!(file, FILE);
        decode_region(file.as_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn a_missing_field_is_named() {
        for field in [
            "block_size",
            "extent_size",
            "value",
            "shift",
            "extent_count",
            "uuid",
            "encrypted",
            "database_read_version",
            "database_write_version",
        ] {
            let message = fault(&format!("\"{field}\""), "\"other\"");
            assert!(
                message.contains(&format!("missing field `{field}`")),
                "{message}"
            );
        }
    }

    #[test]
    fn a_wrong_value_is_named() {
        for (from, to, named) in [
            ("512", "513", "block size 513"),
            ("512", "65536", "block size 65536"),
            ("100", "0", "0 blocks"),
            ("100", "1048577", "1048577 blocks"),
            ("\"shift\": 9", "\"shift\": 12", "shift 12"),
            ("read_version\": 1", "read_version\": 2", "versions 2"),
            ("write_version\": 1", "write_version\": 0", "0 (write)"),
            ("15", "4294967296", "line 7"),
            ("12345678-", "x", "line 8"),
            ("false", "0", "line 9"),
            ("}\n", "", "line"),
        ] {
            let message = fault(from, to);
            assert!(message.contains(named), "{message}");
        }
    }

    #[test]
    fn a_region_that_is_still_being_made_can_be_read() {
        let file = FILE.replace("15", "0");
        assert_eq!(decode_region(file.as_bytes()).unwrap().extent_count, 0);
    }

    #[test]
    fn a_file_that_is_too_long_is_not_looked_into() {
        let file = vec![b' '; REGION_FILE_LEN_MAX + 1];
        assert!(matches!(
            decode_region(&file),
            Err(RegionFileError::Length { .. })
        ));
    }
}

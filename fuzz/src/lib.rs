//! Fuzz targets: each one is a plain function over bytes, so that any driver can call it.

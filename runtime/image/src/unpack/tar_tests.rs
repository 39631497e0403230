use super::*;

struct Bytes(io::Cursor<Vec<u8>>);

impl Read for Bytes {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Skip for Bytes {
    fn skip(&mut self, count: u64) -> io::Result<()> {
        let copied = io::copy(&mut (&mut self.0).take(count), &mut io::sink())?;
        if copied == count { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

fn reader(bytes: Vec<u8>) -> TarReader<Bytes> {
    TarReader::new(Bytes(io::Cursor::new(bytes)), 1 << 20)
}

fn header(path: &str, kind: EntryType, size: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_path(path).unwrap();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_uid(1);
    header.set_gid(2);
    header.set_mtime(3);
    header.set_cksum();
    header
}

fn padded(header: &Header, data: &[u8]) -> Vec<u8> {
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(data);
    bytes.resize(bytes.len().div_ceil(BLOCK) * BLOCK, 0);
    bytes
}

fn pax(records: &[(&str, &str)]) -> Vec<u8> {
    let mut data = Vec::new();
    for (key, value) in records {
        let mut length = key.len() + value.len() + 3;
        while length != key.len() + value.len() + 3 + length.to_string().len() {
            length = key.len() + value.len() + 3 + length.to_string().len();
        }
        data.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
    }
    padded(&header("pax", EntryType::XHeader, data.len() as u64), &data)
}

#[test]
fn plain_entries_and_their_content() {
    let mut bytes = padded(&header("a", EntryType::Regular, 3), b"abc");
    bytes.extend(padded(&header("d/", EntryType::Directory, 0), b""));
    bytes.extend([0; 1024]);
    let mut tar = reader(bytes);
    let entry = tar.next_entry().unwrap().unwrap();
    assert_eq!((entry.path.as_slice(), entry.size, entry.uid, entry.gid), (&b"a"[..], 3, 1, 2));
    let mut buffer = [0; 8];
    assert_eq!(tar.read_data(&mut buffer).unwrap(), 3);
    assert_eq!(tar.read_data(&mut buffer).unwrap(), 0);
    assert_eq!(tar.next_entry().unwrap().unwrap().kind, Kind::Directory);
    assert!(tar.next_entry().unwrap().is_none());
}

/// An entry hidden in the content of a file must stay content, whichever of the two sizes the header shows.
#[test]
fn the_pax_size_rules_the_framing() {
    let smuggled = padded(&header("smuggled", EntryType::Regular, 0), b"");
    let mut bytes = pax(&[("size", "512")]);
    let mut lying = header("outer", EntryType::Regular, 0);
    lying.set_cksum();
    bytes.extend(padded(&lying, &smuggled));
    bytes.extend(padded(&header("after", EntryType::Regular, 0), b""));
    bytes.extend([0; 1024]);
    let mut tar = reader(bytes);
    let names: Vec<_> = std::iter::from_fn(|| tar.next_entry().unwrap()).map(|e| (e.path, e.size)).collect();
    assert_eq!(names, [(b"outer".to_vec(), 512), (b"after".to_vec(), 0)]);
}

#[test]
fn extension_headers_are_bounded_before_they_are_read() {
    let huge = header("x", EntryType::XHeader, 1 << 40);
    assert!(matches!(reader(padded(&huge, b"")).next_entry(), Err(Fault::Limit { .. })));
    let long = header("x", EntryType::GNULongName, (1 << 20) + 1);
    assert!(matches!(reader(padded(&long, b"")).next_entry(), Err(Fault::Limit { .. })));
    let many: Vec<u8> = (0..20).flat_map(|_| pax(&[("comment", "x")])).collect();
    assert!(matches!(reader(many).next_entry(), Err(Fault::Stream { .. })));
}

#[test]
fn damaged_archives_are_refused() {
    let mut wrong = padded(&header("a", EntryType::Regular, 0), b"");
    wrong[0] ^= 1;
    for bytes in [
        wrong,
        vec![7; 512],
        vec![1; 100],
        padded(&header("pax", EntryType::XHeader, 5), b"99 a="),
        padded(&header("pax", EntryType::XHeader, 4), b"x=yz"),
        [pax(&[("size", "-1")]), padded(&header("a", EntryType::Regular, 0), b"")].concat(),
        [pax(&[("size", "18446744073709551615")]), padded(&header("a", EntryType::Regular, 0), b"")].concat(),
        [pax(&[("GNU.sparse.major", "1")]), padded(&header("a", EntryType::Regular, 0), b"")].concat(),
    ] {
        assert!(reader(bytes).next_entry().is_err());
    }
    let mut tar = reader(padded(&header("a", EntryType::Regular, 9999), b"short"));
    tar.next_entry().unwrap().unwrap();
    assert!(tar.next_entry().is_err());
}

#[test]
fn long_names_times_and_attributes() {
    let name = "n/".repeat(150) + "end";
    let mut bytes =
        padded(&header("l", EntryType::GNULongName, name.len() as u64 + 1), format!("{name}\0").as_bytes());
    bytes.extend(pax(&[("mtime", "-1.25"), ("SCHILY.xattr.user.a", "v=1\n"), ("linkpath", "t")]));
    bytes.extend(padded(&header("short", EntryType::Symlink, 77), b""));
    let entry = reader(bytes).next_entry().unwrap().unwrap();
    assert_eq!(entry.path, name.as_bytes());
    assert_eq!((entry.link.as_slice(), entry.size, entry.kind), (&b"t"[..], 0, Kind::Symlink));
    assert_eq!(entry.mtime, (-2, 750_000_000));
    assert_eq!(entry.xattrs, [(b"user.a".to_vec(), b"v=1\n".to_vec())]);
}

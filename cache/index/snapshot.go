package index

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/dgraph-io/badger/v4"
	"github.com/opencontainers/go-digest"

	"hubcap/cache/failpoint"
)

// The snapshot is what a lost index cannot find in the files again: a file of
// JSON, a line a record, the first of them a header. It can be read and
// mended by hand.

// header is its first line.
type header struct {
	Version int `json:"version"`
	Records int `json:"records"`
}

// snapshotVersion is the format that is written and read.
const snapshotVersion = 1

// record is one line: of a tag, of a manifest's media type, or of a link.
type record struct {
	Link      string        `json:"link,omitempty"`     // <registry>/<repository> that has Digest
	Tag       string        `json:"tag,omitempty"`      // <registry>/<repository>:<tag>
	Manifest  digest.Digest `json:"manifest,omitempty"` // of whose media type it is
	Digest    digest.Digest `json:"digest,omitempty"`   // that the tag names
	MediaType string        `json:"mediaType,omitempty"`
	Size      int64         `json:"size,omitempty"`
	Confirmed *time.Time    `json:"confirmed,omitempty"`
	Earlier   []Earlier     `json:"earlier,omitempty"` // digests that the tag named before
}

// snapshot writes one where something has changed. A failure leaves the one
// before. One that could not be read to its end is not written over: somebody
// may want to mend it.
func (x *Index) snapshot() {
	if !x.changed.Swap(false) {
		return
	}
	failpoint.At(failpoint.SnapshotBegun)
	name := filepath.Join(x.path, snapshotName)
	err := x.writeSnapshot(name + ".new")
	if err == nil {
		failpoint.At(failpoint.SnapshotSynced)
		if x.rotten.Swap(false) {
			_ = os.Rename(name, filepath.Join(x.path, rottenName))
		}
		err = os.Rename(name+".new", name)
		failpoint.At(failpoint.SnapshotRenamed)
	}
	if err == nil {
		err = syncDir(x.path)
	}
	if err != nil {
		x.changed.Store(true)
		_ = os.Remove(name + ".new")
		x.Log.Warn("the snapshot of the tags could not be written; the one before stays", "err", err)
	}
}

func (x *Index) writeSnapshot(name string) error {
	var n int
	err := x.read(func(db *database) (err error) {
		n, err = count(db)
		return err
	})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	lines := json.NewEncoder(w)
	err = lines.Encode(header{snapshotVersion, n})
	if err == nil {
		err = x.records(func(r record) error { return lines.Encode(r) })
	}
	err = errors.Join(err, w.Flush())
	failpoint.At(failpoint.SnapshotWritten)
	// An index that has less than the snapshot after a power cut would be taken
	// for a damaged one. Where it cannot be synced, the snapshot is needed most.
	_ = x.sync()
	return errors.Join(err, f.Sync(), f.Close())
}

// records calls visit with what a snapshot has of the index.
func (x *Index) records(visit func(record) error) error {
	return errors.Join(
		x.scan(tagPrefix, "", func(key string, value []byte) error {
			var tag Tag
			if json.Unmarshal(value, &tag) != nil {
				return nil // a damaged one is worth nothing
			}
			return visit(record{Tag: key, Digest: tag.Digest, MediaType: tag.MediaType, Size: tag.Size, Confirmed: &tag.Confirmed, Earlier: tag.Earlier})
		}),
		x.scan(mediaPrefix, "", func(key string, value []byte) error {
			return visit(record{Manifest: digest.Digest(key), MediaType: string(value)})
		}),
		x.linkRecords(visit))
}

func (x *Index) linkRecords(visit func(record) error) error {
	var failed error
	err := x.Links(func(repository string, d digest.Digest) {
		failed = cmp.Or(failed, visit(record{Link: repository, Digest: d}))
	})
	return errors.Join(err, failed)
}

// count is how many records a snapshot of db would have.
func count(db *database) (n int, err error) {
	err = db.View(func(txn *badger.Txn) (err error) {
		for _, family := range []string{tagPrefix, mediaPrefix, linkPrefix} {
			err = errors.Join(err, scan(txn, family, "", func(string, []byte) error { n++; return nil }))
		}
		return err
	})
	return n, err
}

// snapshotRecords tells how many records a snapshot says it has.
func snapshotRecords(name string) (int, error) {
	f, err := os.Open(name)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	line, err := bufio.NewReader(f).ReadBytes('\n')
	if err != nil {
		return 0, err
	}
	h, err := readHeader(line)
	return h.Records, err
}

func readHeader(line []byte) (h header, err error) {
	if err := json.Unmarshal(line, &h); err != nil {
		return header{}, err
	}
	if h.Version != snapshotVersion {
		return header{}, fmt.Errorf("its version is %d and not %d", h.Version, snapshotVersion)
	}
	return h, nil
}

// errNoSense says that a line is no record.
var errNoSense = errors.New("it makes no sense")

// maxRecord is how many bytes a line may have: Badger takes no key above
// 65,000, and what JSON writes in one byte may be three.
const maxRecord = 16 << 10

// parseRecord is the index's entry of a line.
func parseRecord(line []byte) (key string, value []byte, err error) {
	if len(line) > maxRecord {
		return "", nil, errNoSense
	}
	var r record
	if err := json.Unmarshal(line, &r); err != nil {
		return "", nil, err
	}
	key, value, ok := r.entry()
	if !ok {
		return "", nil, errNoSense
	}
	return key, value, nil
}

// entry is the index's entry of a record; ok is false for one that makes no
// sense.
func (r record) entry() (key string, value []byte, ok bool) {
	switch {
	case r.Link != "" && r.Digest.Validate() == nil:
		return linkKey(r.Link, r.Digest), linked, true
	case r.Tag != "" && r.Digest.Validate() == nil && r.Confirmed != nil:
		value, err := json.Marshal(Tag{Digest: r.Digest, MediaType: r.MediaType, Size: r.Size, Confirmed: *r.Confirmed, Earlier: r.Earlier})
		return tagPrefix + r.Tag, value, err == nil
	case r.Manifest.Validate() == nil:
		return mediaPrefix + r.Manifest.String(), []byte(r.MediaType), true
	default:
		return "", nil, false
	}
}

package index

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/dgraph-io/badger/v4"

	"hubcap/cache/failpoint"
)

// The snapshot is a copy of the records that cannot be rebuilt from the files:
// a file of JSON, of which the first line is a header and each other line a
// record. An operator can read and repair it.

// header is the first line.
type header struct {
	Version int `json:"version"` // Format
	Records int `json:"records"`
}

// line is a record: one of its fields is set.
type line struct {
	Tag       *TagRecord       `json:"tag,omitempty"`
	Link      *LinkRecord      `json:"link,omitempty"`
	MediaType *MediaTypeRecord `json:"mediaType,omitempty"`
	Pulled    *PullRecord      `json:"pulled,omitempty"`
	Schedule  *Schedule        `json:"schedule,omitempty"`
	Pin       *PinRecord       `json:"pin,omitempty"`
}

// snapshot writes the snapshot if something has changed since the last one. A
// failure leaves the last one in place. One that was not read to its end is
// kept as snapshot.bad, so that an operator can repair it.
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
		x.Log.Warn("the snapshot of the tags cannot be written; the last one stays", "err", err)
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
	err = x.writeLines(json.NewEncoder(w), n)
	err = errors.Join(err, w.Flush())
	failpoint.At(failpoint.SnapshotWritten)
	// After a power cut, an index that has less than the snapshot would be taken
	// for a damaged one, so the index is synced first. If that fails, the
	// snapshot is needed all the more.
	_ = x.sync()
	return errors.Join(err, f.Sync(), f.Close())
}

func (x *Index) writeLines(lines *json.Encoder, count int) error {
	if err := lines.Encode(header{Format, count}); err != nil {
		return err
	}
	for r, err := range x.Pins() {
		if err = cmp.Or(err, lines.Encode(line{Pin: &r})); err != nil {
			return err
		}
	}
	for r, err := range x.Tags("", "") {
		if err = cmp.Or(err, lines.Encode(line{Tag: &r})); err != nil {
			return err
		}
	}
	for r, err := range x.MediaTypes() {
		if err = cmp.Or(err, lines.Encode(line{MediaType: &r})); err != nil {
			return err
		}
	}
	for r, err := range x.Links() {
		if err = cmp.Or(err, lines.Encode(line{Link: &r})); err != nil {
			return err
		}
	}
	for r, err := range x.Pulled() {
		if err = cmp.Or(err, lines.Encode(line{Pulled: &r})); err != nil {
			return err
		}
	}
	for s, err := range x.Schedules() {
		if err = cmp.Or(err, lines.Encode(line{Schedule: &s})); err != nil {
			return err
		}
	}
	return nil
}

// count returns how many records a snapshot of db would have.
func count(db *database) (n int, err error) {
	err = db.View(func(txn *badger.Txn) (err error) {
		for _, family := range []string{pinFamily, tagFamily, mediaFamily, linkFamily, scheduleFamily, pullFamily} {
			err = errors.Join(err, scan(txn, family, "", func(string, []byte) error { n++; return nil }))
		}
		return err
	})
	return n, err
}

// snapshotRecords returns how many records a snapshot has by its header.
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
	if h.Version != Format {
		return header{}, fmt.Errorf("its format is %d, and this version reads %d", h.Version, Format)
	}
	return h, nil
}

// checkFormat returns an error if db is of another format than Format.
func checkFormat(db *database) error {
	return db.View(func(txn *badger.Txn) error {
		item, err := txn.Get([]byte(formatKey))
		if errors.Is(err, badger.ErrKeyNotFound) {
			return errors.New("its format is older than this version reads")
		}
		if err != nil {
			return err
		}
		return item.Value(func(value []byte) error {
			if string(value) != strconv.Itoa(Format) {
				return fmt.Errorf("its format is %q, and this version reads %d", value, Format)
			}
			return nil
		})
	})
}

// writeFormat marks db as of this Format.
func writeFormat(db *database) error {
	return db.Update(func(txn *badger.Txn) error { return txn.Set([]byte(formatKey), []byte(strconv.Itoa(Format))) })
}

var errNotARecord = errors.New("not a record")

// maxLine is how many bytes a line may have. Badger takes no key above 65,000
// bytes, and would panic.
const maxLine = 16 << 10

// parseLine returns the record of a line as the index stores it.
func parseLine(text []byte) (key string, value []byte, err error) {
	if len(text) > maxLine {
		return "", nil, errNotARecord
	}
	var l line
	if err := json.Unmarshal(text, &l); err != nil {
		return "", nil, err
	}
	switch {
	case l.Tag != nil && l.Tag.valid() && l.Tag.Digest.Validate() == nil && !l.Tag.Confirmed.IsZero():
		value, err = json.Marshal(l.Tag.Tag)
		return l.Tag.key(), value, err
	case l.Link != nil && l.Link.valid() && l.Link.Digest.Validate() == nil:
		return linkKey(l.Link.Origin, l.Link.Digest), linked, nil
	case l.Pin != nil && l.Pin.valid():
		value, err = json.Marshal(l.Pin.Pin)
		return l.Pin.key(), value, err
	case l.MediaType != nil && l.MediaType.Digest.Validate() == nil:
		return mediaFamily + l.MediaType.Digest.String(), []byte(l.MediaType.MediaType), nil
	case l.Pulled != nil && l.Pulled.valid():
		value, err = json.Marshal(l.Pulled.Pulled)
		return l.Pulled.key(), value, err
	case l.Schedule != nil && l.Schedule.valid():
		value, err = json.Marshal(l.Schedule)
		return scheduleFamily + l.Schedule.ID, value, err
	}
	return "", nil, errNotARecord
}

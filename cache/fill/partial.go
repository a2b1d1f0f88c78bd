package fill

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
)

// The bytes of a large fill are synced and then noted each saveBytes, and at
// least each saveTime. So the last sync is short, and little is fetched again
// after an early end.
const (
	saveBytes = 16 << 20
	saveTime  = 2 * time.Second
)

// note is saved beside a partial file and says which spans of it are on disk.
type note struct {
	Size  int64      `json:"size"` // bytes of the blob
	Spans [][2]int64 `json:"spans"`
	From  string     `json:"from,omitempty"` // the host of restricted content; empty for public content
}

// errNoNote says that the note of a partial file does not fit it.
var errNoNote = errors.New("the note does not fit the file")

func encodeNote(size int64, have spans, from string) []byte {
	n := note{Size: size, From: from}
	for _, s := range have {
		n.Spans = append(n.Spans, [2]int64{s.off, s.end})
	}
	encoded, err := json.Marshal(n)
	if err != nil {
		panic(err) // numbers always can
	}
	return encoded
}

// decodeNote reads the note of a file of length bytes. ok is false if it is
// malformed, or names bytes that are not there.
func decodeNote(encoded []byte, length int64) (n note, have spans, ok bool) {
	if json.Unmarshal(encoded, &n) != nil || n.Size <= 0 || len(n.Spans) == 0 {
		return note{}, nil, false
	}
	for _, s := range n.Spans {
		if s[0] < 0 || s[0] >= s[1] || s[1] > min(n.Size, length) {
			return note{}, nil, false
		}
		have.add(span{s[0], s[1]})
	}
	return n, have, true
}

// PartialSize returns the size in bytes of the blob that a partial file of length
// bytes belongs to. ok is false if its note does not fit it.
func PartialSize(encoded []byte, length int64) (size int64, ok bool) {
	n, _, ok := decodeNote(encoded, length)
	return n.Size, ok
}

// resume takes up the partial file of an earlier fill of the digest, if there is
// one. prepare compares its size with the source's.
func (f *Fill) resume() {
	d := f.want.Digest
	reserved, ok := f.fills.o.Ledger.Resume(d)
	if !ok {
		return
	}
	w, n, have, err := f.fills.openPartial(d, reserved)
	if err == nil && reserved <= f.fills.o.MaxBlob && f.mayResume(n) {
		f.mu.Lock()
		f.size, f.writer, f.reserved, f.have, f.resumed = n.Size, w, reserved, have, true
		f.mu.Unlock()
		f.fills.o.Metrics.Fills.Resumed()
		f.fills.o.Log.Info("a partial fill is continued", "digest", d, "bytes", have.bytes(), "of", n.Size)
		return
	}
	switch {
	case err == nil:
		w.Discard()
	case errors.Is(err, errNoNote) || blobs.Absent(err):
		f.fills.o.Log.Warn("a partial fill is unusable and starts again", "digest", d, "err", err)
		if err := f.fills.o.Store.RemovePartial(d); err != nil {
			f.fills.o.Log.Warn("a partial fill cannot be removed; the next start tries again", "digest", d, "err", err)
		}
	default: // the file may be good
		f.fills.o.Log.Warn("a partial fill cannot be read now; it stays until a new one replaces it", "digest", d, "err", err)
		f.fills.o.Ledger.Park(d, reserved)
		return
	}
	f.fills.o.Files.Unlinked(d, func() { f.fills.o.Ledger.Release(reserved) })
}

// mayResume reports whether the fill's client may see the partial file.
func (f *Fill) mayResume(n note) bool {
	return n.From == "" || f.want.Granted && f.want.Host == n.From
}

// openPartial opens the partial file of d, for which the ledger counts so many
// bytes, and returns which spans are on disk. The ledger counts more than the
// blob's size if the note could not be read at the start: then the bytes that
// the file takes on disk.
func (s *Fills) openPartial(d digest.Digest, counted int64) (*blobs.Writer, note, spans, error) {
	w, p, err := s.o.Store.Resume(d)
	if err != nil {
		return nil, note{}, nil, err
	}
	if n, have, ok := decodeNote(p.Note, p.Size); ok && n.Size <= counted {
		return w, n, have, nil
	}
	w.Leave()
	return nil, note{}, nil, errNoNote
}

// dropPartial discards what resume took up, so that the fill starts again.
func (f *Fill) dropPartial() {
	f.mu.Lock()
	w, reserved := f.writer, f.reserved
	f.size, f.writer, f.reserved, f.have, f.resumed = -1, nil, 0, nil, false
	f.mu.Unlock()
	w.Discard()
	f.fills.o.Files.Unlinked(f.want.Digest, func() { f.fills.o.Ledger.Release(reserved) })
}

// whole reports whether the partial file has every byte: the process ended
// between the last byte and the commit.
func (f *Fill) whole() bool { return f.resumed && f.have.endFrom(0) == f.size }

// save syncs and notes the bytes that have come until the hasher ends.
func (f *Fill) save() {
	tick := time.NewTicker(saveTime)
	defer tick.Stop()
	for {
		select {
		case <-f.hashEnded:
			return
		case <-f.saveDue:
		case <-tick.C:
		}
		if err := f.saveNow(); err != nil {
			// The commit will fail too. Until then, readers are not affected.
			f.fills.o.Log.Warn("a fill cannot be saved while it runs", "digest", f.want.Digest, "err", err)
			return
		}
	}
}

func (f *Fill) saveNow() error {
	f.mu.Lock()
	if f.unsaved == 0 {
		f.mu.Unlock()
		return nil
	}
	f.unsaved = 0
	from := ""
	if f.class == blobs.Restricted {
		from = f.want.Host
	}
	encoded := encodeNote(f.size, f.have, from)
	f.mu.Unlock()
	return f.writer.Save(encoded)
}

// lasting reports whether the file of a fill that err has ended is worth keeping
// for the next one. A blob that is stored has no partial file beside it.
func (f *Fill) lasting(err error) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.replaces || !f.savable() || f.have.bytes() == 0 || errors.Is(err, errChanged) {
		return false
	}
	why := failureOf(err)
	return why == failedStopped || why == failedUpstream
}

// savable reports whether the fill may leave a partial file: its blob is larger
// than one piece, and its source can be asked again. f.mu is held.
func (f *Fill) savable() bool { return f.size > maxPiece && !f.want.Local }

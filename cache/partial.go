package cache

import (
	"encoding/json"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/blobs"
	"hubcap/metrics"
)

// What has come of a large download is written to disk as it goes, and then
// noted: each saveBytes, and after saveTime what there is. So the last sync is
// short, and of a download that ends early no more than that comes again.
const (
	saveBytes = 16 << 20
	saveTime  = 2 * time.Second
)

// note is what is saved beside a partial download: the spans of it that are
// on disk.
type note struct {
	Size  int64      `json:"size"` // bytes of the blob
	Spans [][2]int64 `json:"spans"`
	From  string     `json:"from,omitempty"` // the host that gives them to some; empty when they are for everybody
}

// errNoNote says that a partial download's note does not fit it.
var errNoNote = errors.New("its note does not fit it")

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

// decodeNote reads the note of a file of length bytes. ok is false for one
// that makes no sense: it speaks of bytes that are not there.
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

// resume takes up what an earlier fill of the digest has left. prepare compares
// its size with the source's.
func (f *fill) resume() {
	d := f.want.Digest
	reserved, ok := f.cache.o.Ledger.Resume(d)
	if !ok {
		return
	}
	w, n, have, err := f.cache.left(d, reserved)
	if err == nil && reserved <= f.cache.o.MaxBlob && f.mayResume(n) {
		f.mu.Lock()
		f.size, f.writer, f.reserved, f.have, f.resumed = n.Size, w, reserved, have, true
		f.mu.Unlock()
		f.cache.o.Metrics.Fills.Resumed()
		f.cache.o.Log.Info("a download goes on where it was left", "digest", d, "bytes", have.bytes(), "of", n.Size)
		return
	}
	switch {
	case err == nil:
		w.Discard()
	case errors.Is(err, errNoNote) || blobs.Absent(err):
		f.cache.o.Log.Warn("an unfinished download makes no sense and begins again", "digest", d, "err", err)
		if err := f.cache.o.Store.RemovePartial(d); err != nil {
			f.cache.o.Log.Warn("an unfinished download cannot be removed; the next start tries again", "digest", d, "err", err)
		}
	default: // it may be good
		f.cache.o.Log.Warn("an unfinished download cannot be read now; it stays until a new one takes its place", "digest", d, "err", err)
		f.cache.o.Ledger.Park(d, reserved)
		return
	}
	f.cache.handles.unlinked(d, func() { f.cache.o.Ledger.Release(reserved) })
}

// mayResume tells whether what was left may be shown to those who ask now.
func (f *fill) mayResume(n note) bool {
	return n.From == "" || f.want.Granted && f.want.Host == n.From
}

// left opens the partial download of d, which counts for so many bytes, and
// returns which of them are there. It counts for more than it is to become when
// its note could not be read at the start: then for what it takes on disk.
func (c *Cache) left(d digest.Digest, counted int64) (*blobs.Writer, note, spans, error) {
	w, p, err := c.o.Store.Resume(d)
	if err != nil {
		return nil, note{}, nil, err
	}
	if n, have, ok := decodeNote(p.Note, p.Size); ok && n.Size <= counted {
		return w, n, have, nil
	}
	w.Leave()
	return nil, note{}, nil, errNoNote
}

// restart gives up what resume took up.
func (f *fill) restart() {
	f.mu.Lock()
	w, reserved := f.writer, f.reserved
	f.size, f.writer, f.reserved, f.have, f.resumed = -1, nil, 0, nil, false
	f.mu.Unlock()
	w.Discard()
	f.cache.handles.unlinked(f.want.Digest, func() { f.cache.o.Ledger.Release(reserved) })
}

// whole tells whether every byte is there before anybody is asked: the process
// ended between the last byte and the commit.
func (f *fill) whole() bool { return f.resumed && f.have.endFrom(0) == f.size }

// save writes to disk what has come, again and again until the verdict.
func (f *fill) save() {
	tick := time.NewTicker(saveTime)
	defer tick.Stop()
	for {
		select {
		case <-f.judged:
			return
		case <-f.due:
		case <-tick.C:
		}
		if err := f.saveNow(); err != nil {
			// The commit will fail of it too; until then it harms nobody.
			f.cache.o.Log.Warn("a download cannot be saved while it runs", "digest", f.want.Digest, "err", err)
			return
		}
	}
}

func (f *fill) saveNow() error {
	f.mu.Lock()
	if f.unsaved == 0 {
		f.mu.Unlock()
		return nil
	}
	f.unsaved = 0
	from := ""
	if f.class == blobs.ClassClosed {
		from = f.want.Host
	}
	encoded := encodeNote(f.size, f.have, from)
	f.mu.Unlock()
	return f.writer.Save(encoded)
}

// lasting tells whether what has come is worth keeping for another time. A
// digest is not both held and begun.
func (f *fill) lasting() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.replaces || !f.savable() || f.have.bytes() == 0 || errors.Is(f.err, errChanged) {
		return false
	}
	why := failureOf(f.err)
	return why == metrics.FillStopped || why == metrics.FillUpstream
}

// savable tells whether the fill is one that goes on another time: what is one
// piece of one writer is not. f.mu is held.
func (f *fill) savable() bool { return f.size > maxPiece }

// park ends a fill and lets its file lie for the next one.
func (f *fill) park() {
	err := f.failed()
	f.cache.unlist(f)
	if err := f.saveNow(); err != nil {
		f.cache.o.Log.Warn("an unfinished download cannot be saved", "digest", f.want.Digest, "err", err)
		f.giveUp(err)
		return
	}
	f.writer.Leave()
	f.cache.o.Ledger.Park(f.want.Digest, f.reserved)
	f.count(err)
}

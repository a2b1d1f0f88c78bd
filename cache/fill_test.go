package cache

import (
	"encoding/json"
	"reflect"
	"sync"
	"testing"
	"time"
	"unsafe"

	"hubcap/cache/fill"
)

// The names under which these tests know what package fill has.
const (
	tail   = fill.Tail
	buffer = fill.BufferSize
	// maxPiece is the size of the largest piece that one writer fetches.
	maxPiece = 8 << 20
	// maxUrgent is how many writers a fill has beside its connections.
	maxUrgent = 2
)

var (
	errStopped    = fill.ErrStopped
	errUnreadable = fill.ErrUnreadable
)

// span is the bytes from off to end, exclusive.
type span struct{ off, end int64 }

// permanent is an error of a source that asking again does not help.
type permanent struct{ error }

func (permanent) Temporary() bool     { return false }
func (permanent) Wait() time.Duration { return 0 }
func (permanent) Unsatisfiable() bool { return false }
func (p permanent) Unwrap() error     { return p.error }

// unexported returns a field of what of points to, which another package keeps to
// itself: a test has a file fail under a reader, or holds everybody up at a lock.
func unexported[T any](t testing.TB, of any, name string) *T {
	t.Helper()
	field := reflect.ValueOf(of).Elem().FieldByName(name)
	if !field.IsValid() || field.Type() != reflect.TypeFor[T]() {
		t.Fatalf("%T has no field %s of that type", of, name)
	}
	return (*T)(unsafe.Pointer(field.UnsafeAddr()))
}

// spans are bytes of a blob.
type spans []span

func (m spans) bytes() (n int64) {
	for _, s := range m {
		n += s.end - s.off
	}
	return n
}

// encodeNote returns the note of a partial file.
func encodeNote(size int64, have spans, from string) []byte {
	n := map[string]any{"size": size, "from": from}
	all := [][2]int64{}
	for _, s := range have {
		all = append(all, [2]int64{s.off, s.end})
	}
	n["spans"] = all
	encoded, err := json.Marshal(n)
	if err != nil {
		panic(err)
	}
	return encoded
}

// decodeNote returns what the note of a partial file of length bytes says: the size
// of the blob, and what of it is there.
func decodeNote(encoded []byte, length int64) (size int64, have spans, ok bool) {
	size, ok = fill.PartialSize(encoded, length)
	var n struct {
		Spans [][2]int64 `json:"spans"`
	}
	ok = ok && json.Unmarshal(encoded, &n) == nil
	for _, s := range n.Spans {
		have = append(have, span{s[0], s[1]})
	}
	return size, have, ok
}

// turnsOfHost is how many of all fills at a time may be from one host.
func turnsOfHost(all int) int { return all * 3 / 4 }

// holdUp holds up everybody who needs the mutex mu of what of points to.
func holdUp(t testing.TB, of any) (goOn func()) {
	mu := unexported[sync.Mutex](t, of, "mu")
	mu.Lock()
	return mu.Unlock
}

package cache

import (
	"os"
	"testing"
)

// TestSmallFilesAreKeptInMemory: a small file is read once. What is purged is not sent
// from memory either.
func TestSmallFilesAreKeptInMemory(t *testing.T) {
	r := newRig(t, rigOptions{})
	for _, size := range []int{0, 1, smallFile, smallFile + 1} {
		body, d := randomContent(1, size)
		src := &origin{body: body}
		r.mustGet(d, src, body)
		r.settle()
		if o := r.mustGet(d, src, body); o != Held {
			t.Fatalf("%d bytes: origin %d", size, o)
		}
		if err := os.Truncate(r.file(d), 0); err != nil {
			t.Fatal(err)
		}
		got, origin, err := r.get(d, src, 0, -1)
		if small := size <= smallFile; err != nil || len(got) != size || small != (origin == Held) {
			t.Errorf("%d bytes, with the file cut: %d came, origin %d, %v", size, len(got), origin, err)
		}
		if size > 1 {
			if got, _, err := r.get(d, src, 1, 1); err != nil || got[0] != body[1] {
				t.Errorf("a byte of %d: %v, %v", size, got, err)
			}
		}
		r.Purge(d, false)
		if o := r.mustGet(d, src, body); o == Held {
			t.Errorf("%d bytes are sent from memory after they were purged", size)
		}
		r.settle()
	}
}

// TestDamagedSmallFile: bytes that have rotted under a file that is trusted are not
// kept, and not sent.
func TestDamagedSmallFile(t *testing.T) {
	r := newRig(t, rigOptions{})
	body, d := randomContent(1, 10_000)
	src := &origin{body: body}
	r.mustGet(d, src, body)
	r.settle()
	r.rot(d, 5000)
	if _, _, err := r.get(d, src, 0, -1); err == nil {
		t.Error("wrong bytes are sent")
	}
	if r.small.Contains(d) {
		t.Error("wrong bytes are kept")
	}
	r.settle()
	if o := r.mustGet(d, src, body); o == Held {
		t.Error("the damaged file is held")
	}
}

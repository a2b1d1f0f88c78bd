package fill

import (
	"bytes"
	"testing"

	"github.com/opencontainers/go-digest"
)

// TestHasherFailsInTheMiddle has the hasher fail between two reads: a reader that
// continues uncached continues with the hash of exactly the hashed bytes.
func TestHasherFailsInTheMiddle(t *testing.T) {
	s := newFills(t)
	body := bytes.Repeat([]byte("a sentence, again and again"), BufferSize/6)
	f := newFill(s, Want{Digest: digest.FromBytes(body), Size: -1}, false)
	if err := f.prepare(&Stream{Size: int64(len(body))}); err != nil {
		t.Fatal(err)
	}
	defer s.o.Ledger.Release(int64(len(body)))
	defer f.writer.Discard()
	if _, err := f.writer.WriteAt(body[:2*BufferSize+5], 0); err != nil {
		t.Fatal(err)
	}
	f.wrote(span{0, 3 * BufferSize}) // the file has lost the end of it
	err := f.hashAll()
	close(f.hashEnded)
	if err == nil {
		t.Fatal("no error")
	}
	if got, want := digest.NewDigest(digest.SHA256, f.hash), digest.FromBytes(body[:f.hashed]); got != want {
		t.Errorf("the fill says that its hash is of %d bytes, and it is not", f.hashed)
	}
}

package cache

import (
	"encoding/hex"
	"hash"

	"github.com/opencontainers/go-digest"
)

// hashAll follows the contiguous bytes from 0 and pronounces the verdict. It
// reads the file, not the stream, so that several writers may bring the bytes
// in any order, and one processor hashes while another receives. It ends with
// the verdict, or, when the fill has failed, with what was contiguous then.
func (f *fill) hashAll() error {
	buf := buffers.Get().(*[buffer]byte)
	defer buffers.Put(buf)
	var hashed int64
	for {
		end, size, ended := f.frontier(hashed)
		for hashed < end {
			n := min(end-hashed, buffer)
			if _, err := f.writer.ReadAt(buf[:n], hashed); err != nil {
				return diskError{err}
			}
			f.hash.Write(buf[:n])
			hashed += n
			f.mu.Lock()
			f.hashed = hashed
			f.mu.Unlock()
		}
		if hashed == size {
			return f.judge()
		}
		if ended {
			return nil
		}
	}
}

// frontier waits until bytes beyond from are contiguous, the size is reached,
// or the fill has failed.
func (f *fill) frontier(from int64) (end, size int64, ended bool) {
	for {
		f.mu.Lock()
		end, size, ended = f.have.endFrom(0), f.size, f.ended
		changed := f.changed
		f.mu.Unlock()
		if end > from || end == size || ended {
			return end, size, ended
		}
		<-changed
	}
}

// judge compares the digest and, when it is right, opens the tail.
func (f *fill) judge() error {
	right := hashesTo(f.hash, f.want.Digest)
	if !right {
		if err := f.writer.Sound(); err != nil { // then the source is not to blame
			return diskError{err}
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err != nil {
		return f.err
	}
	if !right {
		return ErrWrongContent
	}
	f.verified = true
	f.broadcast()
	return nil
}

// hashesTo tells whether what h has seen is the content of d.
func hashesTo(h hash.Hash, d digest.Digest) bool {
	return hex.EncodeToString(h.Sum(nil)) == d.Encoded()
}

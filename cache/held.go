package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/opencontainers/go-digest"

	"hubcap/cache/fill"
	"hubcap/cache/locks"
)

// held reads a stored file.
type held struct {
	cache  *Cache
	digest digest.Digest
	size   int64
	// signature is the file's when it was opened; trusted: it was verified within the
	// interval, and is unchanged since.
	signature uint64
	trusted   bool
	// replaced is unread.replaced from before the file was opened.
	replaced int64
	handle   *locks.File
	file     *os.File
}

// Send implements Body: it starts the verification of a file that is not trusted. A
// span that reaches the end waits for the result before its tail. Any other one is
// sent, and the file is verified in the background.
func (h *held) Send(ctx context.Context, w fill.Sink, off, n int64) (sent int64, err error) {
	if h.trusted {
		return h.copy(w, off, n)
	}
	check := h.cache.check(h.digest, h.signature)
	if off+n < h.size {
		return h.copy(w, off, n)
	}
	before := max(min(n, h.size-fill.Tail-off), 0)
	if sent, err = h.copy(w, off, before); err != nil {
		return sent, err
	}
	if err := w.FlushError(); err != nil {
		return sent, err
	}
	err = check.wait(ctx)
	if errors.Is(err, errNotHeld) { // evicted since it was opened
		err = fill.VerifyFile(h.digest, h.file, h.size)
	}
	if err != nil {
		return sent, err
	}
	h.trusted = true
	m, err := h.copy(w, off+sent, n-sent)
	return sent + m, err
}

func (h *held) copy(w fill.Sink, off, n int64) (sent int64, err error) {
	if _, err := h.file.Seek(off, io.SeekStart); err != nil {
		return 0, fmt.Errorf("%w: %w", fill.ErrUnreadable, err)
	}
	return fill.CopySpan(w, h.file, off, off+n)
}

// continueUncached returns a stream that continues at off after a file that was
// not trusted has failed. What the client was given of it is hashed together with
// what follows. If that cannot be read again, the error is cause.
func (h *held) continueUncached(want Want, off int64, cause error) (fill.Body, error) {
	sum, err := fill.HashOf(h.digest, h.file, 0, off)
	if err != nil {
		return nil, cause
	}
	return h.cache.fills.Continue(want, h.size, sum, off), nil
}

// Close implements Body.
func (h *held) Close() {
	_ = h.file.Close()
	h.cache.files.Release(h.digest, h.handle)
}

package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"time"

	"hubcap/cache"
	"hubcap/proxy/access"
)

// bodyPatience is how long a client is waited for that sends a body, once it
// has been answered.
const bodyPatience = 500 * time.Millisecond

// answer is the response to one request, as far as it has come. It counts,
// moves the write deadline with the progress, and hands files to the kernel:
// it has ReadFrom, which is what keeps sendfile.
type answer struct {
	w       http.ResponseWriter
	from    io.ReaderFrom
	control *http.ResponseController
	began   time.Time

	patience time.Duration // with the client, for one cache.Chunk; a slower one is cut
	late     bool          // that was too long
	vain     bool          // a registry was asked, and there is nothing

	client    netip.Addr  // invalid where nobody knows
	view      access.View // of the repository that is asked for
	kind      kind
	result    result
	size      int64         // bytes of what was asked for; negative when nobody knew before the end
	status    int           // 0 until the head is written
	sent      int64         // body bytes
	firstByte time.Duration // 0 until the head is written
	trouble   error         // of the upstream, under which something held was sent
}

func newAnswer(w http.ResponseWriter, now time.Time, patience time.Duration) *answer {
	a := &answer{w: w, control: http.NewResponseController(w), began: now, patience: patience}
	a.from, _ = w.(io.ReaderFrom)
	return a
}

func (a *answer) set(name, value string) { a.w.Header()[name] = []string{value} }

// head writes the status line and the header. size is the length of the body
// in bytes, negative when it is not known.
func (a *answer) head(status int, size int64) {
	if size >= 0 {
		a.set("Content-Length", strconv.FormatInt(size, 10))
	}
	a.extend(0)
	a.status = status
	a.firstByte = time.Since(a.began)
	a.w.WriteHeader(status)
}

// extend moves the write deadline, for up to n bytes. A connection without one
// is no error.
func (a *answer) extend(n int) {
	chunks := max(1, (n+cache.Chunk-1)/cache.Chunk)
	_ = a.control.SetWriteDeadline(time.Now().Add(time.Duration(chunks) * a.patience))
}

// endBody bounds the wait for the rest of a request's body, which net/http
// reads at the end of an answer.
func (a *answer) endBody() { _ = a.control.SetReadDeadline(time.Now().Add(bodyPatience)) }

// Write sends p.
func (a *answer) Write(p []byte) (int, error) {
	a.extend(len(p))
	n, err := a.w.Write(p)
	a.sent += int64(n)
	a.judge(err)
	return n, err
}

// ReadFrom sends what r has: a file, and then the kernel does it.
func (a *answer) ReadFrom(r io.Reader) (int64, error) {
	a.extend(0)
	var n int64
	var err error
	if a.from != nil {
		n, err = a.from.ReadFrom(r)
	} else {
		n, err = io.Copy(a.w, r)
	}
	a.sent += n
	a.judge(err)
	return n, err
}

// judge notes a client that took too long.
func (a *answer) judge(err error) {
	a.late = a.late || errors.Is(err, os.ErrDeadlineExceeded)
}

// FlushError sends what net/http has kept back. A writer that keeps nothing
// back need not know how.
func (a *answer) FlushError() error {
	a.extend(0)
	err := a.control.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	a.judge(err)
	return err
}

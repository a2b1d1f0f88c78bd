package proxy

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"syscall"
	"time"

	"hubcap/cache"
	"hubcap/proxy/access"
	"hubcap/proxy/bypass"

	"github.com/opencontainers/go-digest"
)

// bodyWait is how long the rest of a request's body is awaited after the response.
const bodyWait = 500 * time.Millisecond

// answer is the response to one request. It counts bytes, moves the write
// deadline as the client reads, and implements io.ReaderFrom so that files are
// sent by sendfile.
type answer struct {
	w       http.ResponseWriter
	from    io.ReaderFrom
	control *http.ResponseController
	began   time.Time
	took    time.Duration // known once it has ended

	values []string // of the headers; all of one array, as long as it has room

	chunkTime time.Duration // the longest that the client may take for one cache.Chunk
	late      bool          // the client has taken longer
	gone      bool          // the client has closed the connection
	notFound  bool          // a registry was asked, and the answer is an empty list

	client     netip.Addr  // invalid if unknown
	notAllowed bool        // to pull
	view       access.View // of the repository that is asked for
	held       bool        // the client asks for what is held alone
	kind       kind
	result     result
	place      string        // that a blob comes from: peer, s3 or sister; empty for its registry and the cache
	digest     digest.Digest // of the manifest or blob; empty for a list
	size       int64         // bytes of the whole object; negative if unknown before the end
	status     int           // 0 until the head is written
	sent       int64         // body bytes
	firstByte  time.Duration // 0 until the head is written
	trouble    error         // why a stale answer was sent
	refusal    *apiError     // the error response; nil for none
	cut        bool          // hubcap could not send the rest
	family     bypass.Family // of the client
}

func newAnswer(w http.ResponseWriter, now time.Time, chunkTime time.Duration) *answer {
	a := &answer{w: w, control: http.NewResponseController(w), began: now, chunkTime: chunkTime, values: make([]string, 0, headersOfAnswer)}
	a.from, _ = w.(io.ReaderFrom)
	return a
}

// headersOfAnswer is how many headers an answer has, as a rule.
const headersOfAnswer = 8

// set sets a header. Its name is in canonical form.
func (a *answer) set(name, value string) {
	a.values = append(a.values, value)
	n := len(a.values)
	a.w.Header()[name] = a.values[n-1 : n : n]
}

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

// extend moves the write deadline, for the next n bytes. Not all connections
// have one, which is no error.
func (a *answer) extend(n int) {
	chunks := max(1, (n+cache.Chunk-1)/cache.Chunk)
	_ = a.control.SetWriteDeadline(time.Now().Add(time.Duration(chunks) * a.chunkTime))
}

// endBody limits how long net/http waits for the rest of the request's body.
func (a *answer) endBody() { _ = a.control.SetReadDeadline(time.Now().Add(bodyWait)) }

// Write writes p to the client.
func (a *answer) Write(p []byte) (int, error) {
	a.extend(len(p))
	n, err := a.w.Write(p)
	a.sent += int64(n)
	a.checkLate(err)
	return n, err
}

// ReadFrom writes the content of r to the client: a file by sendfile.
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
	a.checkLate(err)
	return n, err
}

// checkLate notes that the client has missed the write deadline, or has left:
// a write may fail before the request's context ends.
func (a *answer) checkLate(err error) {
	a.late = a.late || errors.Is(err, os.ErrDeadlineExceeded)
	a.gone = a.gone || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// FlushError sends what net/http has buffered. A writer without a buffer need
// not support it.
func (a *answer) FlushError() error {
	a.extend(0)
	err := a.control.Flush()
	if errors.Is(err, http.ErrNotSupported) {
		return nil
	}
	a.checkLate(err)
	return err
}

package fakehub

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"
)

// exchange is a request and its answer.
type exchange struct {
	hub   *Hub
	ctx   context.Context // ends when the client leaves or the hub closes
	w     http.ResponseWriter
	r     *http.Request
	entry *entry
	fault *Fault
	conn  *conn

	out    io.Writer    // where the body goes
	flush  func() error // pushes out what was written
	raw    net.Conn     // taken from the server to write what net/http would not; else nil
	limits func() []limit
}

// serve answers a request to a role.
func (h *Hub) serve(role Role, w http.ResponseWriter, r *http.Request) {
	h.handled.Add(1)
	defer h.handled.Add(-1)
	c := r.Context().Value(connKey{}).(*conn)
	e := h.log.add(newRequest(role, c, r))
	defer e.update(func(q *Request) { q.Done = true })
	x := &exchange{hub: h, ctx: r.Context(), w: w, r: r, entry: e, conn: c, out: w}
	x.flush = http.NewResponseController(w).Flush
	if !h.conns.use(c, role) {
		x.reset()
	}
	q := e.snapshot()
	x.fault = h.consult(q)
	o := h.options.Load()
	delay := o.Latency + x.fault.Delay
	if o.Distant && !c.answered.Swap(true) {
		delay += o.Latency
	}
	if sleep(x.ctx, delay) != nil {
		panic(http.ErrAbortHandler)
	}
	if x.fault.CloseBeforeHeaders {
		x.reset()
	}
	a := h.replacement(x.fault, &q)
	if a == nil {
		a = h.answer(role, r, &q, x.fault)
	}
	x.send(a)
}

// newRequest returns the log entry of a request.
func newRequest(role Role, c *conn, r *http.Request) Request {
	q := Request{
		Conn: c.id, Role: role, Kind: KindOther, Proto: r.Proto, Method: r.Method, Host: r.Host,
		Path: r.URL.Path, Query: r.URL.RawQuery, Range: r.Header.Get("Range"), Offset: rangeOffset(r.Header.Get("Range")),
		UserAgent: r.UserAgent(), Authorization: r.Header.Get("Authorization"), Header: r.Header.Clone(),
		RemoteAddr: r.RemoteAddr, Time: time.Now(),
	}
	switch role {
	case RoleRegistry:
		q.Kind, q.Repo, q.Reference = parseRegistry(q.Path)
	case RoleCDN:
		q.Kind, q.Reference = parseCDN(q.Path)
	case RoleToken:
		if q.Path == "/token" {
			q.Kind = KindToken
		}
	}
	return q
}

// answer returns the real answer of a role.
func (h *Hub) answer(role Role, r *http.Request, q *Request, f *Fault) *answer {
	switch role {
	case RoleRegistry:
		return h.registry(r, q)
	case RoleToken:
		return h.token(r, f)
	case RoleCDN:
		return h.cdn(r, q)
	}
	return newAnswer(http.StatusMisdirectedRequest, "text/plain", bytesSource([]byte("no such host here\n")))
}

// reset ends the connection without an answer.
func (x *exchange) reset() {
	x.conn.reset()
	panic(http.ErrAbortHandler)
}

// send sends an answer with the exchange's fault.
func (x *exchange) send(a *answer) {
	f := x.fault
	x.hub.distort(a, f)
	s := a.choose(x.r, f)
	var reader io.ReadSeekCloser
	if a.body.open != nil && x.r.Method != http.MethodHead {
		var err error
		if reader, err = a.body.open(); err == nil {
			defer reader.Close()
			_, err = reader.Seek(s.start, io.SeekStart)
		}
		if err != nil {
			reader, s = nil, span{}
			a = newAnswer(http.StatusInternalServerError, "text/plain", bytesSource([]byte(err.Error()+"\n")))
			s.end = a.body.size
		}
	}
	x.limits = x.limiter(a.blob)
	defer x.release()
	x.head(a, s.end-s.start)
	if x.r.Method == http.MethodHead {
		return
	}
	if a.blob {
		x.hub.senders.Add(1)
		defer x.hub.senders.Add(-1)
	}
	x.body(a.body, reader, s)
}

// limiter returns the limits that the body is under. It is called for each
// piece, since caps may change meanwhile.
func (x *exchange) limiter(blob bool) func() []limit {
	var own pacer
	return func() []limit {
		var limits []limit
		if x.fault.Rate > 0 {
			limits = append(limits, limit{&own, x.fault.Rate, 1})
		}
		if o := x.hub.options.Load(); blob {
			if o.ConnBandwidth > 0 {
				limits = append(limits, limit{&x.conn.pace, o.ConnBandwidth, 1})
			}
			if o.Bandwidth > 0 {
				limits = append(limits, limit{&x.hub.total, o.Bandwidth, x.hub.senders.Load()})
			}
		}
		return limits
	}
}

// head sends the status and the headers of a body with size bytes.
func (x *exchange) head(a *answer, size int64) {
	f := x.fault
	length := strconv.FormatInt(size+f.ExtraLength, 10)
	if f.WrongLength != "" {
		length = f.WrongLength
	}
	open := f.NoLength || f.UntilClose || f.Endless
	if !open {
		a.header.Set("Content-Length", length)
	}
	if f.UntilClose && x.r.ProtoMajor == 1 {
		a.header.Set("Transfer-Encoding", "identity") // makes net/http end the body by closing
	}
	x.entry.update(func(q *Request) { q.Status = a.status })

	if x.r.ProtoMajor == 1 && (f.HeaderDelay > 0 || f.ExtraLength != 0 || f.WrongLength != "") && !open {
		x.rawHead(a)
	} else {
		if sleep(x.ctx, f.HeaderDelay) != nil {
			panic(http.ErrAbortHandler)
		}
		for name, values := range a.header {
			x.w.Header()[name] = values
		}
		x.w.WriteHeader(a.status)
	}
	if open || f.BodyDelay > 0 {
		x.flush()
	}
	if sleep(x.ctx, f.BodyDelay) != nil {
		panic(http.ErrAbortHandler)
	}
}

// rawHead takes the connection from the server and writes the headers byte by
// byte as given.
func (x *exchange) rawHead(a *answer) {
	raw, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // the connection is already gone
	}
	x.raw, x.out = raw, raw
	x.flush = func() error { return nil }
	fmt.Fprintf(raw, "HTTP/1.1 %d %s\r\n", a.status, http.StatusText(a.status))
	sleep(x.ctx, x.fault.HeaderDelay)
	var b bytes.Buffer
	a.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	a.header.Set("Connection", "close")
	a.header.Write(&b) // into memory
	b.WriteString("\r\n")
	raw.Write(b.Bytes())
}

// release closes a connection that was taken from the server.
func (x *exchange) release() {
	if x.raw != nil {
		x.raw.Close()
		x.hub.conns.remove(x.conn.Conn)
	}
}

// body sends a span of the source with the exchange's fault. reader, if there
// is one, is at the beginning of the span.
func (x *exchange) body(src *source, reader io.Reader, s span) {
	f := x.fault
	window := new(sendWindow)
	if o := x.hub.options.Load(); o.Distant {
		window = newSendWindow(o.Latency)
	}
	for pos := s.start; ; {
		if at(f.StallAt, pos) {
			x.stall()
		}
		if at(f.CutAt, pos) {
			x.cut()
		}
		if pos == s.end {
			break
		}
		limits := x.limits()
		size := pieceSize(limits)
		if o := x.hub.options.Load(); o.WriteSize > 0 && len(limits) > 0 {
			size = min(size, o.WriteSize)
		}
		n, err := window.take(x.ctx, min(size, s.end-pos), x.flush)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		for _, offset := range []*int64{f.StallAt, f.CutAt, f.CorruptAt} {
			if offset != nil && *offset > pos {
				n = min(n, *offset-pos)
			}
		}
		var data []byte
		if src.open == nil {
			data = src.data[pos : pos+n]
		}
		if at(f.CorruptAt, pos) {
			n, data = 1, corrupted(src, reader, pos)
		}
		if x.piece(limits, data, reader, n) != nil {
			panic(http.ErrAbortHandler) // the client left, or the source ended early
		}
		pos += n
	}
	for zeros := make([]byte, 32<<10); f.Endless; {
		limits := x.limits()
		n := min(pieceSize(limits), int64(len(zeros)))
		if x.piece(limits, zeros[:n], nil, n) != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// at reports whether a fault's offset is pos.
func at(offset *int64, pos int64) bool { return offset != nil && *offset == pos }

// corrupted returns the byte at pos with one bit flipped.
func corrupted(src *source, reader io.Reader, pos int64) []byte {
	b := make([]byte, 1)
	if src.open == nil {
		b[0] = src.data[pos]
	} else {
		io.ReadFull(reader, b) // an error shows at the next piece
	}
	b[0] ^= 1
	return b
}

// piece sends n bytes, data or from the reader when data is nil, as soon as the
// limits allow. They are counted before they are sent: a client that has
// received them all must find them all in the log.
func (x *exchange) piece(limits []limit, data []byte, reader io.Reader, n int64) error {
	if err := pace(x.ctx, limits, n); err != nil {
		return err
	}
	x.entry.update(func(q *Request) { q.Sent += n })
	var written int64
	var err error
	if data != nil {
		var w int
		w, err = x.out.Write(data)
		written = int64(w)
	} else {
		written, err = io.CopyN(x.out, reader, n) // sendfile, where there is a file
	}
	if err == nil && len(limits) > 0 {
		err = x.flush()
	}
	if err != nil {
		x.entry.update(func(q *Request) { q.Sent += written - n })
	}
	return err
}

// stall sends nothing until the client leaves, the hub closes or the fault's Resume is
// closed.
func (x *exchange) stall() {
	x.flush()
	switch {
	case x.fault.Resume != nil:
		select {
		case <-x.fault.Resume:
			return
		case <-x.ctx.Done():
		}
	case x.raw != nil:
		io.Copy(io.Discard, x.raw) // ends when either side closes
	default:
		<-x.ctx.Done()
	}
	panic(http.ErrAbortHandler)
}

// cut closes the TCP connection behind what was sent.
func (x *exchange) cut() {
	x.flush()
	if x.r.ProtoMajor > 1 {
		sleep(x.ctx, 20*time.Millisecond) // the frame writer works on its own
	}
	x.conn.Close()
	panic(http.ErrAbortHandler)
}

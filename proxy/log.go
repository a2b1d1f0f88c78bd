package proxy

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"

	"hubcap/proxy/requests"
)

// log writes the log line of a request: what was asked, what the answer was made
// from, and the error if there was one. Health checks are logged at level debug.
func (h *Handler) log(a *answer, r *http.Request, rt route, err error) {
	level := slog.LevelInfo
	var api *apiError
	switch {
	case rt.live || rt.ready:
		level = slog.LevelDebug
	case a.trouble != nil, err != nil && !errors.As(err, &api) && r.Context().Err() == nil:
		level = slog.LevelWarn
	}
	ctx := r.Context()
	if !h.Log.Enabled(ctx, level) {
		return
	}
	var room [13]slog.Attr
	attrs := append(room[:0],
		slog.String("method", r.Method),
		slog.String("kind", rt.kind.String()),
	)
	if rt.name != "" {
		attrs = append(attrs, slog.String("registry", rt.upstream.Host), slog.String("repository", rt.name))
	} else {
		attrs = append(attrs, slog.String("path", r.URL.EscapedPath()))
	}
	switch {
	case rt.tag != "":
		attrs = append(attrs, slog.String("tag", rt.tag))
	case rt.digest != "":
		attrs = append(attrs, slog.String("digest", rt.digest.String()))
	}
	attrs = append(attrs,
		slog.Int("status", a.status),
		slog.String("from", a.result.String()),
		slog.Int64("bytes", a.sent),
		slog.Duration("took", a.took),
		slog.String("family", a.family.String()),
		slog.String("client", clientOf(a, r)),
	)
	if a.place != "" {
		attrs = append(attrs, slog.String("place", a.place))
	}
	if err == nil {
		err = a.trouble
	}
	if err != nil {
		attrs = append(attrs, slog.String("err", err.Error()))
	}
	h.Log.LogAttrs(ctx, level, "request", attrs...)
}

// keep keeps a request among the last ones, unless it is a health check.
func (h *Handler) keep(a *answer, r *http.Request, rt route, err error) {
	if rt.live || rt.ready {
		return
	}
	one := requests.Request{
		At: a.began, Client: a.client, Family: a.family.String(), Method: r.Method, Kind: rt.kind.String(),
		Repository: rt.name, Tag: rt.tag, Digest: rt.digest.String(),
		Status: a.status, Result: a.result.String(), Bytes: a.sent, TookS: a.took.Seconds(),
	}
	if rt.name != "" {
		one.Registry = rt.upstream.Host
	} else {
		one.Path = r.URL.EscapedPath()
	}
	if err == nil {
		err = a.trouble
	}
	if err != nil {
		one.Error = err.Error()
	}
	h.Recent.Add(&one)
}

// clientOf returns the client's address for the log; with its port unless it
// came through a proxy.
func clientOf(a *answer, r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil || !a.client.IsValid() || peer.Addr().Unmap().WithZone("") == a.client {
		return r.RemoteAddr
	}
	return a.client.String()
}

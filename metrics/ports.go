package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// ConnectionLimit is a limit that a connection of a client met.
type ConnectionLimit uint8

// The limits of connections.
const (
	LimitPerClient   ConnectionLimit = iota // waited: its address had as many as it may
	LimitTotal                              // waited: there were as many as there may be
	LimitWaiting                            // refused: too many of its address waited
	LimitIdle                               // closed between two requests, to make room for others
	LimitHead                               // ended before the head of a request had come: too slow, too long, or never meant to
	LimitDescriptors                        // not accepted: the process has too many files open
	ConnectionLimits                        // how many there are
)

var connectionLimitNames = [ConnectionLimits]string{"per_client", "total", "waiting", "idle", "head", "descriptors"}

func (l ConnectionLimit) String() string { return connectionLimitNames[l] }

// Ports tells of the connections of clients, and of the certificates that are
// shown to them. A port's name is one of a closed set: mirror, auth, admin.
type Ports struct {
	open    *prometheus.GaugeVec
	waiting *prometheus.GaugeVec
	limited *prometheus.CounterVec
	read    *prometheus.GaugeVec
	expires *prometheus.GaugeVec
}

func newPorts(registry prometheus.Registerer) *Ports {
	p := &Ports{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "connections",
			Help: "Client connections that are being served.",
		}, []string{"port"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "connections_waiting",
			Help: "Client connections that are accepted and wait to be served.",
		}, []string{"port"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "connection_limits_total",
			Help: "Client connections that met a limit: per_client (waited, their address had as many as it may have), total (waited, too many in total), waiting (closed, too many of their address waited), idle (closed between two requests to make room), head (closed before a complete request head), descriptors (not accepted, no file descriptor left).",
		}, []string{"port", "limit"}),
		read: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "tls_last_reload_success",
			Help: "1 if the port's certificate could be read when its files last changed, otherwise 0.",
		}, []string{"port"}),
		expires: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "tls_certificate_expiry_timestamp_seconds",
			Help: "Expiry of the port's current certificate, in seconds since 1970.",
		}, []string{"port"}),
	}
	registry.MustRegister(p.open, p.waiting, p.limited, p.read, p.expires)
	return p
}

// Opened notes a connection that is served; Closed ends it.
func (p *Ports) Opened(port string) { p.open.WithLabelValues(port).Inc() }

// Closed notes the end of a connection.
func (p *Ports) Closed(port string) { p.open.WithLabelValues(port).Dec() }

// Waits notes n more connections that wait to be served.
func (p *Ports) Waits(port string, n int) { p.waiting.WithLabelValues(port).Add(float64(n)) }

// Limited notes a connection that met a limit.
func (p *Ports) Limited(port string, limit ConnectionLimit) {
	p.limited.WithLabelValues(port, connectionLimitNames[limit]).Inc()
}

// Certificate notes whether the files of a port's certificate could be read,
// and when the one that is shown expires.
func (p *Ports) Certificate(port string, read bool, expires time.Time) {
	value := 0.
	if read {
		value = 1
	}
	p.read.WithLabelValues(port).Set(value)
	p.expires.WithLabelValues(port).Set(float64(expires.Unix()))
}

package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Ports tells of the certificates that are shown to clients.
type Ports struct {
	read    *prometheus.GaugeVec
	expires *prometheus.GaugeVec
}

func newPorts(registry prometheus.Registerer) *Ports {
	p := &Ports{
		read: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "tls_last_reload_success",
			Help: "1 when a port's certificate could be read when its files last changed, else 0.",
		}, []string{"port"}),
		expires: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: namespace, Name: "tls_certificate_expiry_seconds",
			Help: "When the certificate that a port shows expires, in seconds since 1970.",
		}, []string{"port"}),
	}
	registry.MustRegister(p.read, p.expires)
	return p
}

// Certificate notes whether the files of a port's certificate could be read,
// and when the one that is shown expires. port is one of a closed set: mirror,
// auth.
func (p *Ports) Certificate(port string, read bool, expires time.Time) {
	value := 0.
	if read {
		value = 1
	}
	p.read.WithLabelValues(port).Set(value)
	p.expires.WithLabelValues(port).Set(float64(expires.Unix()))
}

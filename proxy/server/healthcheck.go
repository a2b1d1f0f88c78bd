package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"hubcap/proxy/config"
)

// Healthcheck asks the mirror port of the hubcap that runs with a configuration
// on this machine. The error says why that is not ready.
func Healthcheck(c config.Config) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	mirror := listeners(c)[0]
	return get(ctx, mirror.scheme(), Local(string(mirror.address)), "/readyz")
}

// Local returns the address at which this machine reaches one that a port listens at.
func Local(address string) string {
	host, number, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, number)
}

// get asks a port of this machine for a path, over a connection of its own. The
// error says why the answer is not 200.
func get(ctx context.Context, scheme, address, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+"://"+address+path, nil)
	if err != nil {
		return err
	}
	// No proxy, and no check of the certificate: its name may be another one,
	// and the port is this machine's own.
	own := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // see above
	resp, err := (&http.Client{Transport: own}).Do(req)
	if err != nil {
		return errors.Unwrap(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("not ready: status %d", resp.StatusCode)
	}
	return nil
}

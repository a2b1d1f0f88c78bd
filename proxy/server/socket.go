package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// serveSocket answers at the Unix socket of the admin port until stop is called.
// Without a socket everything else works.
func (s *Server) serveSocket() (stop func()) {
	path := s.config.SocketPath()
	if path == "" {
		return func() {}
	}
	l, err := listenUnix(path)
	if err != nil {
		s.log.Warn("there is no socket for hubcap's commands; they need HUBCAP_URL and HUBCAP_TOKEN, or another HUBCAP_ADMIN_SOCKET", "socket", path, "err", err)
		return func() {}
	}
	server := &http.Server{
		Handler: s.adminSocket, ReadHeaderTimeout: headerTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			s.log.Warn("the socket for hubcap's commands has failed", "socket", path, "err", err)
		}
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), adminTimeout)
		defer cancel()
		_ = server.Shutdown(ctx) // drain has ended the streams
		_ = server.Close()
		<-ended
	}
}

// listenUnix listens at a socket that only this user, and root, can connect to.
// One that a process has left behind is replaced.
func listenUnix(path string) (net.Listener, error) {
	if info, err := os.Lstat(path); err == nil {
		if info.Mode().Type() != os.ModeSocket {
			return nil, errors.New("there is another file")
		}
		conn, err := new(net.Dialer).DialContext(context.Background(), "unix", path)
		if err == nil {
			_ = conn.Close()
			return nil, errors.New("another process listens there")
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		// On Linux the file gets the mode of the socket when it is made.
		return c.Control(func(fd uintptr) { _ = unix.Fchmod(int(fd), 0o600) })
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil { // for other systems
		_ = l.Close()
		return nil, fmt.Errorf("its mode cannot be set: %w", err)
	}
	return l, nil
}

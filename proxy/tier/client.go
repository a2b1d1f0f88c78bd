package tier

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/middleware"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
)

// newClient returns a client that every S3 server understands: buckets in the path, no
// checksums but where S3 requires them, nothing that comes after a body, and no hash of
// what TLS protects. It sends each request once.
func newClient(o Options, send http.RoundTripper) *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: aws.String((&url.URL{Scheme: o.URL.Scheme, Host: o.URL.Host}).String()), UsePathStyle: true, Region: o.Region,
		Credentials:                aws.NewCredentialsCache(keysOf(o)),
		HTTPClient:                 &http.Client{Transport: send, CheckRedirect: noRedirect},
		Retryer:                    aws.NopRetryer{},
		RequestChecksumCalculation: aws.RequestChecksumCalculationWhenRequired,
		ResponseChecksumValidation: aws.ResponseChecksumValidationWhenRequired,
		DisableLogOutputChecksumValidationSkipped: true,
	}, s3.WithAPIOptions(v4.UseDynamicPayloadSigningMiddleware, middleware.AddUserAgentKey(o.UserAgent)))
}

// noRedirect has a redirect returned as an answer: S3's say that the bucket is somewhere
// else, and a request is signed for one host.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// errNoKeys says that there is nothing to sign requests with.
var errNoKeys = errors.New("there are no keys for the bucket")

// keysOf returns what has the keys: the operator's, or the environment's as the AWS SDK
// finds them, asked for at the first request.
func keysOf(o Options) aws.CredentialsProvider {
	if o.AccessKey != "" {
		return credentials.NewStaticCredentialsProvider(o.AccessKey, o.SecretKey, "")
	}
	load := sync.OnceValues(func() (aws.Config, error) {
		// AWS_CA_BUNDLE wants this kind of client.
		ask := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.Proxy = o.Proxy
			t.TLSClientConfig = &tls.Config{RootCAs: o.RootCAs(), MinVersion: tls.VersionTLS12}
			t.DisableKeepAlives = true // the next request is hours away
		})
		return config.LoadDefaultConfig(context.Background(),
			config.WithRegion(o.Region), config.WithHTTPClient(ask), config.WithRetryMaxAttempts(2))
	})
	return aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		cfg, err := load()
		if err != nil {
			return aws.Credentials{}, fmt.Errorf("%w: %w", errNoKeys, err)
		}
		keys, err := cfg.Credentials.Retrieve(ctx)
		if err != nil {
			err = fmt.Errorf("%w: %w", errNoKeys, err)
		}
		return keys, err
	})
}

// Connections to the bucket.
const (
	connectWithin = time.Second
	idlePerHost   = 32
	idleFor       = 90 * time.Second
)

// newTransport returns what sends requests to the bucket under the authorities.
func (o Options) newTransport(roots *x509.CertPool) *http.Transport {
	return &http.Transport{
		Proxy:                 o.Proxy,
		DialContext:           (&net.Dialer{Timeout: connectWithin, KeepAlive: 15 * time.Second}).DialContext,
		TLSClientConfig:       &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		ExpectContinueTimeout: time.Second, // what exists already is refused before it is sent
		MaxIdleConnsPerHost:   idlePerHost, IdleConnTimeout: idleFor, DisableCompression: true, ReadBufferSize: 64 << 10,
	}
}

/* MQTT 3.1.1 load generator: pre-encoded packets, one epoll loop, every message counted.
 *
 *   mqtt_load MODE host port connections messages qos window [ca cert key]
 *
 * fanin    `connections` publishers to 1 subscriber     fanout   1 publisher to `connections` subscribers
 * pairs    `connections` publisher/subscriber pairs     connect  `messages` connects, `connections` at a time
 * latency  1 pair at `window` messages a second         steady   `connections` devices, 1 message a second each
 * idle     `connections` held until standard input ends
 *
 * A load begins with a line on standard input, and its connections stay until that ends.
 * `window` is the number of unacknowledged QoS 1 messages a publisher keeps on the way (at QoS 0: messages a write).
 * Prints one line of JSON: messages delivered, seconds, and percentiles in microseconds: for latency from publisher
 * to subscriber, for steady from PUBLISH to PUBACK.
 * Build: cc -O2 mqtt_load.c -o mqtt_load           (with mutual TLS: -DWITH_TLS -lssl -lcrypto)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
static SSL_CTX *tls;
#endif

enum { CONNECTING, HANDSHAKE, WAIT_CONNACK, WAIT_SUBACK, READY };
#define RBUF 65536

typedef struct {
  int fd, state, publisher, number, unacked, len, epoll_out;
  uint16_t id;
  double sent_at;
  unsigned char *rest;
  size_t out_len, out_at;
  unsigned char *out;
#ifdef WITH_TLS
  SSL *ssl;
#endif
} conn;

static int ep, qos, window, n_ready;
static long target, delivered, sent, acked;
static char payload[201];
static const char *mode;
static struct sockaddr_in addr;
static double *samples;
static long n_samples;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec * 1e-9;
}
static void die(const char *what) {
  perror(what);
  exit(1);
}
static void arm(conn *c, int out) {
  struct epoll_event e = {.events = EPOLLIN | (out ? EPOLLOUT : 0), .data.ptr = c};
  if (c->epoll_out == out) return;
  c->epoll_out = out;
  epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}
static ssize_t raw_write(conn *c, const void *p, size_t n) {
#ifdef WITH_TLS
  if (c->ssl) {
    int r = SSL_write(c->ssl, p, n);
    if (r > 0) return r;
    errno = EAGAIN;
    return -1;
  }
#endif
  return send(c->fd, p, n, MSG_NOSIGNAL);
}
static ssize_t raw_read(conn *c, void *p, size_t n) {
#ifdef WITH_TLS
  if (c->ssl) {
    int r = SSL_read(c->ssl, p, n);
    if (r > 0) return r;
    if (SSL_get_error(c->ssl, r) == SSL_ERROR_WANT_READ) {
      errno = EAGAIN;
      return -1;
    }
    return 0;
  }
#endif
  return recv(c->fd, p, n, 0);
}
static void flush(conn *c) {
  while (c->out_at < c->out_len) {
    ssize_t n = raw_write(c, c->out + c->out_at, c->out_len - c->out_at);
    if (n < 0) {
      if (errno == EAGAIN) {
        arm(c, 1);
        return;
      }
      die("write");
    }
    c->out_at += n;
  }
  c->out_at = c->out_len = 0;
  arm(c, 0);
}
static void put(conn *c, const void *p, size_t n) {
  c->out = realloc(c->out, c->out_len + n);
  memcpy(c->out + c->out_len, p, n);
  c->out_len += n;
}
static int field(unsigned char *p, const char *s) {
  int n = strlen(s);
  p[0] = n >> 8;
  p[1] = n;
  memcpy(p + 2, s, n);
  return n + 2;
}
static void topic_of(conn *c, char *t) {
  if (!strcmp(mode, "pairs") || !strcmp(mode, "latency"))
    sprintf(t, "pairs/%d", c->number);
  else if (!strcmp(mode, "fanout"))
    strcpy(t, "fanout/all");
  else
    sprintf(t, "devices/d%d/readings", c->number);
}
static void send_connect(conn *c) {
  unsigned char b[128], *p = b + 2;
  char id[64];
  p += field(p, "MQTT");
  *p++ = 4;
  *p++ = 2;
  *p++ = 1200 >> 8;
  *p++ = 1200 & 255;
  sprintf(id, "load-%s-%d-%d", c->publisher ? "p" : "s", c->number, getpid());
  p += field(p, id);
  b[0] = 0x10;
  b[1] = p - b - 2;
  put(c, b, p - b);
  c->state = WAIT_CONNACK;
  flush(c);
}
static void send_subscribe(conn *c) {
  unsigned char b[128], *p = b + 2;
  char t[64];
  if (!strcmp(mode, "fanin"))
    strcpy(t, "devices/+/readings");
  else
    topic_of(c, t);
  *p++ = 0;
  *p++ = 1;
  p += field(p, t);
  *p++ = qos;
  b[0] = 0x82;
  b[1] = p - b - 2;
  put(c, b, p - b);
  c->state = WAIT_SUBACK;
  flush(c);
}
static void publish(conn *c) {
  unsigned char b[512], *p = b + 3;
  char t[64];
  topic_of(c, t);
  p += field(p, t);
  if (qos) {
    if (!++c->id) c->id = 1;
    *p++ = c->id >> 8;
    *p++ = c->id;
  }
  memcpy(p, payload, 200);
  if (!strcmp(mode, "latency")) {
    double at = now();
    memcpy(p, &at, 8);
  }
  p += 200;
  int n = p - b - 3;
  b[0] = 0x30 | qos << 1;
  b[1] = (n & 127) | 128;
  b[2] = n >> 7;
  put(c, b, p - b);
  sent++;
  if (!c->unacked++) c->sent_at = now();
}
static void fill(conn *c) { /* Keep the window full; at QoS 0 the subscribers' count is what holds us back. */
  if (!strcmp(mode, "latency") || !strcmp(mode, "steady")) return;
  while (c->unacked < window && sent < target) publish(c);
  flush(c);
}
static void ready(conn *c) {
  c->state = READY;
  n_ready++;
  (void)c;
}
static void packet(conn *c, unsigned char *p, unsigned char *body, int n) {
  switch (p[0] >> 4) {
  case 2:
    if (body[1]) {
      fprintf(stderr, "refused %d\n", body[1]);
      exit(1);
    }
    if (c->publisher || !strcmp(mode, "idle") || !strcmp(mode, "connect"))
      ready(c);
    else
      send_subscribe(c);
    break;
  case 9:
    ready(c);
    break;
  case 4:
    acked++;
    c->unacked--;
    if (!strcmp(mode, "steady") && n_samples < target) samples[n_samples++] = (now() - c->sent_at) * 1e6;
    break;
  case 3: {
    delivered++;
    int t = body[0] << 8 | body[1];
    unsigned char *rest = body + 2 + t;
    if (p[0] & 6) {
      unsigned char ack[4] = {0x40, 2, rest[0], rest[1]};
      put(c, ack, 4);
      rest += 2;
    }
    if (!strcmp(mode, "latency") && n_samples < target) {
      double at;
      memcpy(&at, rest, 8);
      samples[n_samples++] = (now() - at) * 1e6;
    }
    break;
  }
  }
}
static void on_read(conn *c) {
  static unsigned char buf[RBUF * 4];
  if (c->len) memcpy(buf, c->rest, c->len);
  ssize_t got = raw_read(c, buf + c->len, sizeof buf - c->len);
  if (got < 0 && errno == EAGAIN) return;
  if (got <= 0) {
    fprintf(stderr, "connection lost\n");
    exit(1);
  }
  unsigned char *p = buf, *end = buf + c->len + got;
  while (end - p >= 2) {
    int n = 0, shift = 0;
    unsigned char *q = p + 1;
    while (q < end && shift < 28) {
      n |= (*q & 127) << shift;
      shift += 7;
      if (!(*q++ & 128)) goto have;
    }
    break;
  have:
    if (end - q < n) break;
    packet(c, p, q, n);
    p = q + n;
  }
  c->len = end - p;
  if (c->len) {
    c->rest = realloc(c->rest, c->len);
    memcpy(c->rest, p, c->len);
  }
  flush(c);
}
static conn *open_conn(int publisher, int number) {
  conn *c = calloc(1, sizeof *c);
  int one = 1;
  c->publisher = publisher;
  c->number = number;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) die("socket");
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  if (connect(c->fd, (void *)&addr, sizeof addr) < 0 && errno != EINPROGRESS) die("connect");
  struct epoll_event e = {.events = EPOLLIN | EPOLLOUT, .data.ptr = c};
  c->epoll_out = 1;
  epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
  return c;
}
static void start(conn *c) {
#ifdef WITH_TLS
  if (tls) {
    if (!c->ssl) {
      c->ssl = SSL_new(tls);
      SSL_set_mode(c->ssl, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
      SSL_set_fd(c->ssl, c->fd);
      SSL_set_tlsext_host_name(c->ssl, "localhost");
      c->state = HANDSHAKE;
    }
    int r = SSL_connect(c->ssl);
    if (r != 1) {
      int e = SSL_get_error(c->ssl, r);
      if (e != SSL_ERROR_WANT_READ && e != SSL_ERROR_WANT_WRITE) {
        ERR_print_errors_fp(stderr);
        exit(1);
      }
      arm(c, e == SSL_ERROR_WANT_WRITE);
      return;
    }
  }
#endif
  send_connect(c);
}
static void step(conn *c, unsigned events) {
  if (c->state == CONNECTING || c->state == HANDSHAKE) {
    start(c);
    return;
  }
  if (events & EPOLLOUT) flush(c);
  if (events & (EPOLLIN | EPOLLHUP)) on_read(c);
}
static int by_value(const void *a, const void *b) {
  double x = *(double *)a, y = *(double *)b;
  return (x > y) - (x < y);
}
static struct epoll_event evs[1024];
static int turn(int wait) {
  int n = epoll_wait(ep, evs, 1024, wait);
  for (int i = 0; i < n; i++) step(evs[i].data.ptr, evs[i].events);
  return n;
}
static void close_conn(conn *c) {
#ifdef WITH_TLS
  if (c->ssl) SSL_free(c->ssl);
#endif
  close(c->fd);
  free(c->out);
  free(c->rest);
  free(c);
}

int main(int argc, char **argv) {
  if (argc < 8) return 2;
  mode = argv[1];
  addr.sin_family = AF_INET;
  addr.sin_port = htons(atoi(argv[3]));
  inet_pton(AF_INET, argv[2], &addr.sin_addr);
  int n = atoi(argv[4]);
  target = atol(argv[5]);
  qos = atoi(argv[6]);
  window = atoi(argv[7]);
  struct rlimit rl = {20000, 20000};
  setrlimit(RLIMIT_NOFILE, &rl);
  ep = epoll_create1(0);
#ifdef WITH_TLS
  if (argc >= 11) {
    tls = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_session_cache_mode(tls, SSL_SESS_CACHE_OFF);
    if (!SSL_CTX_load_verify_locations(tls, argv[8], NULL) || SSL_CTX_use_certificate_file(tls, argv[9], SSL_FILETYPE_PEM) != 1 ||
        SSL_CTX_use_PrivateKey_file(tls, argv[10], SSL_FILETYPE_PEM) != 1)
      return 3;
  }
#endif
  memset(payload, 'x', 200);
  int k = sprintf(payload, "{\"device\":\"d1\",\"seq\":123456,\"ts\":1700000000000,\"quantity\":\"temperature\",\"value\":21.5,\"pad\":\"");
  payload[k] = 'x';
  memcpy(payload + 198, "\"}", 2);

  if (!strcmp(mode, "connect")) {
    double t = now();
    long done = 0;
    int number = 0;
    conn **list = calloc(n, sizeof *list);
    for (int i = 0; i < n; i++) list[i] = open_conn(1, number++);
    while (done < target) {
      turn(1000);
      for (int i = 0; i < n; i++)
        if (list[i]->state == READY) {
          close_conn(list[i]);
          done++;
          list[i] = open_conn(1, number++);
        }
    }
    printf("{\"messages\": %ld, \"seconds\": %.3f}\n", done, now() - t);
    return 0;
  }

  int subs = 0, pubs = n;
  if (!strcmp(mode, "fanin")) subs = 1;
  if (!strcmp(mode, "pairs")) subs = n;
  if (!strcmp(mode, "latency")) subs = pubs = 1;
  if (!strcmp(mode, "fanout")) subs = n, pubs = 1;
  conn **list = calloc(subs + pubs, sizeof *list);
  int in_flight_limit = 64, opened = 0;
  while (n_ready < subs + pubs) {
    while (opened < subs + pubs && opened - n_ready < in_flight_limit) {
      int is_pub = opened >= subs;
      list[opened] = open_conn(is_pub, is_pub ? opened - subs : opened);
      opened++;
    }
    turn(1000);
  }
  if (!strcmp(mode, "idle")) {
    printf("{\"ready\": %d}\n", n_ready);
    fflush(stdout);
    while (getchar() != EOF) {}
    return 0;
  }
  printf("{\"ready\": %d}\n", n_ready);
  fflush(stdout);
  getchar(); /* The caller notes the server's CPU time now. */
  conn **pub = list + subs;
  long expect = !strcmp(mode, "fanout") ? target * n : target;
  double t = now();
  if (!strcmp(mode, "latency") || !strcmp(mode, "steady")) {
    samples = calloc(target + 1, sizeof *samples);
    double gap = !strcmp(mode, "latency") ? 1.0 / window : 1.0 / n, next = t;
    int turn_of = 0;
    while ((!strcmp(mode, "latency") ? delivered : acked) < target) {
      while (sent < target && now() >= next) {
        conn *c = pub[turn_of++ % pubs];
        publish(c);
        flush(c);
        next += gap;
      }
      turn(0);
    }
  } else {
    while (delivered < expect || (qos && acked < target)) {
      if (!qos) { /* Hold back by what was delivered. */
        long per = !strcmp(mode, "fanout") ? n : 1;
        for (int i = 0; i < pubs; i++) pub[i]->unacked = 0;
        if (sent * per - delivered < (long)window * pubs * per)
          for (int i = 0; i < pubs && sent < target; i++) fill(pub[i]);
      } else if (!strcmp(mode, "fanout")) {
        if (sent * n - delivered < (long)window * n) fill(pub[0]);
      } else
        for (int i = 0; i < pubs; i++)
          if (pub[i]->unacked < (window + 1) / 2) fill(pub[i]);
      turn(1000);
    }
  }
  double took = now() - t;
  if (n_samples) {
    qsort(samples, n_samples, sizeof *samples, by_value);
    printf("{\"messages\": %ld, \"seconds\": %.3f, \"p50\": %.1f, \"p99\": %.1f}\n",
           !strcmp(mode, "steady") ? acked : delivered, took, samples[n_samples / 2], samples[n_samples * 99 / 100]);
  } else
    printf("{\"messages\": %ld, \"seconds\": %.3f}\n", delivered, took);
  fflush(stdout);
  while (getchar() != EOF) {} /* The caller notes the CPU time again, before the connections end. */
  return 0;
}
